"""Starts a service after ending what a killed predecessor left behind: `python -m stack.alone FILE COMMAND...`.

Airflow's scheduler forks its workers, and none of them notices when it is killed: they would wait for work for ever, in
a process group that the process manager no longer knows. FILE keeps the group's number from one start to the next.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil


def end_group(group: int) -> list[int]:
    """Kills the processes of the group, but never this one; returns their ids. An empty group is no error.

    Only those that work in this folder, as services do: after a reboot the number may be anybody's.
    """
    ended = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if process.pid != os.getpid() and os.getpgid(process.pid) == group and process.cwd() == os.getcwd():
                process.kill()
                ended.append(process.pid)
    return ended


def main() -> None:
    """Ends the group that FILE names, writes this one's number into it, and becomes COMMAND."""
    file, command = Path(sys.argv[1]), sys.argv[2:]
    with suppress(FileNotFoundError, ValueError):
        if ended := end_group(int(file.read_text())):
            sys.stderr.write(f"Ended {len(ended)} processes that an earlier {file.stem} left behind\n")
    file.write_text(str(os.getpgid(0)))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
