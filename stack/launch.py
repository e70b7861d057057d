"""Becomes a service: `python -m stack.launch NAME`, in the folder with `services.json`, as the process manager runs it.

A command and an environment in the process manager's own configuration would be split at blanks, cut at ` ;` and
formatted at `%`; and an error in it would print them.

Before, this ends what a killed predecessor left behind. Airflow's scheduler forks its workers, and none of them notices
when it is killed: they would wait for work endlessly, in a process group that the process manager no longer knows.
`NAME.group` keeps the group's number from one start to the next.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parent.parent


def end_group(group: int) -> list[int]:
    """Kills the processes of the group, but never this one; returns their ids. An empty group is no error."""
    ended = []
    for process in _members(group):
        with suppress(psutil.Error):
            process.kill()
            ended.append(process.pid)
    return ended


def left_behind(run: Path) -> list[str]:
    """The services of which processes still run, by the numbers of the groups in that folder."""
    groups = {file.stem: file.read_text(encoding="utf-8") for file in sorted(run.glob("*.group"))}
    return [name for name, group in groups.items() if group.isdigit() and _members(int(group))]


def _members(group: int) -> list[psutil.Process]:
    # Only those that work in this folder, as services do: after a reboot the number may be anybody's.
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if process.pid != os.getpid() and os.getpgid(process.pid) == group and process.cwd() == str(PROJECT):
                found.append(process)
    return found


def main() -> None:
    """Ends the group that the last start noted, notes this one's, and becomes the service."""
    name = sys.argv[1]
    service = json.loads(Path("services.json").read_text(encoding="utf-8"))[name]
    group = Path(f"{name}.group").absolute()
    os.chdir(PROJECT)
    with suppress(FileNotFoundError, ValueError):
        if ended := end_group(int(group.read_text(encoding="utf-8"))):
            sys.stderr.write(f"Ended {len(ended)} processes that an earlier {name} left behind\n")
    group.write_text(str(os.getpgid(0)), encoding="utf-8")
    os.execvpe(service["command"][0], service["command"], os.environ | service["environment"])


if __name__ == "__main__":
    main()
