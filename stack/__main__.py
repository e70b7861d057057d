"""`python -m stack COMMAND`: what the Makefile calls, once the virtual environment is there."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from flight_delays.data.sources import month_range
from flight_delays.data.sources.nycflights13 import MONTHS
from flight_delays.errors import DataError
from flight_delays.settings import Settings, get_settings
from stack import commands, console, state
from stack.backup import backup, restore
from stack.secrets import load_secrets, make_private
from stack.services import BIN, airflow_environment, inherited_environment
from stack.supervisor import Supervisor
from stack.up import act, down, up


def _months(text: str) -> str:
    try:
        months = month_range(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if len(months) < 3 or not months.isin(month_range(MONTHS)).all():  # the training holds out two
        raise argparse.ArgumentTypeError(f"MONTHS {text}: at least three months within {MONTHS} are expected")
    return text


def _airflow(settings: Settings, rest: list[str]) -> None:
    environment = inherited_environment() | airflow_environment(settings, load_secrets(settings))
    os.execve(BIN / "airflow", ["airflow", *rest], environment)


def _settings() -> Settings:
    os.umask(0o077)
    settings = get_settings()
    make_private(settings)
    if Supervisor(settings).process() is None:
        return settings
    os.environ |= state.started_environment(settings)  # its ports count, not those of this command's environment
    get_settings.cache_clear()
    return get_settings()


def main() -> None:
    """Runs one command; exit status 1, with what failed and what to do, where it fails."""
    parser, command = commands.parser("make", "The embedded stack.", act)
    command("up", "start the stack; ends with a predicted flight", up)(
        "--months", type=_months, help="the first model learns from these alone; default: all"
    )
    command("down", "stop the stack", down)
    command("status", "show processes, query, model and last canary", console.status)
    command("logs", "follow the logs", console.logs)("service", nargs="?")
    add = command("backup", "write a backup", backup)
    add("path", nargs="?", type=Path)
    add("--no-stop", action="store_false", dest="may_stop", help="refuse where the stack runs")
    add = command("restore", "restore a backup", restore)
    add("path", type=Path)
    add("--force", action="store_true", help="replace the state that is there")
    command("clean", "remove all state", console.clean)("--yes", action="store_true", dest="assume_yes")
    command("airflow", "run Airflow's own command line", _airflow)("rest", nargs=argparse.REMAINDER)
    interrupted = "Interrupted. The same command goes on from here."
    commands.run(parser, _settings, hint="make status", interrupted=interrupted)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
