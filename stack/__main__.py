"""`python -m stack COMMAND`: what the Makefile calls, once the virtual environment is there."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from confluent_kafka import KafkaException
from pymongo.errors import PyMongoError

from flight_delays.data.sources import month_range
from flight_delays.data.sources.nycflights13 import MONTHS
from flight_delays.errors import DataError, sentence
from flight_delays.predictor.state import Action
from flight_delays.settings import SettingsError, get_settings
from stack import console, state
from stack.secrets import load_secrets, make_private
from stack.services import BIN, airflow_environment, inherited_environment
from stack.steps import StepFailedError, explain
from stack.supervisor import Supervisor
from stack.up import act, down, up


def _months(text: str) -> str:
    try:
        first, last = month_range(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    known = month_range(MONTHS)
    if first < known[0] or last > known[1] or last - first < 2:  # of which the training holds out two
        raise argparse.ArgumentTypeError(f"MONTHS {text}: at least three months within {MONTHS} are expected")
    return text


def main() -> None:  # noqa: PLR0912, PLR0915 - one branch a command
    """Runs one command; exit status 1, with what failed and what to do, where it fails."""
    parser = argparse.ArgumentParser(prog="make", description="The embedded stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("down", "stop the stack"),
        ("status", "show processes, query, model and last canary"),
        ("models", "show the model versions, and why each serves or does not"),
        ("topics", "show the Kafka topics"),
        ("listen", "show the messages as they come"),
    ):
        commands.add_parser(name, help=text)
    starting = commands.add_parser("up", help="start the stack; ends with a predicted flight")
    starting.add_argument("--months", type=_months, help="the first model learns from these alone; default: all")
    acting = commands.add_parser("predictor", help="start, stop, restart or deploy")
    acting.add_argument("action", choices=[each.value for each in Action], metavar="ACTION")
    acting.add_argument("version", nargs="?")
    commands.add_parser("predictions", help="show the last answers").add_argument("--count", type=int, default=5)
    commands.add_parser("logs", help="follow the logs").add_argument("service", nargs="?")
    commands.add_parser("backup", help="write a backup").add_argument("path", nargs="?", type=Path)
    restoring = commands.add_parser("restore", help="restore a backup")
    restoring.add_argument("path", type=Path)
    restoring.add_argument("--force", action="store_true", help="replace the state that is there")
    commands.add_parser("clean", help="remove all state").add_argument("--yes", action="store_true")
    commands.add_parser("airflow", help="run Airflow's own command line").add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    os.umask(0o077)
    try:
        settings = get_settings()
        make_private(settings)
        if Supervisor(settings).process() is not None:  # its ports count, not those of this command's environment
            os.environ |= state.started_environment(settings)
            get_settings.cache_clear()
            settings = get_settings()
        match options.command:
            case "up":
                up(settings, options.months)
            case "down":
                down(settings)
            case "status":
                console.status(settings)
            case "predictor":
                act(settings, options.action, options.version)
            case "models":
                console.models(settings)
            case "topics":
                console.topics(settings)
            case "listen":
                console.listen(settings)
            case "predictions":
                console.predictions(settings, options.count)
            case "logs":
                console.logs(settings, options.service)
            case "backup":
                console.backup(settings, options.path)
            case "restore":
                console.restore(settings, options.path, force=options.force)
            case "clean":
                console.clean(settings, assume_yes=options.yes)
            case "airflow":
                environment = inherited_environment() | airflow_environment(settings, load_secrets(settings))
                os.execve(BIN / "airflow", ["airflow", *options.rest], environment)
    except SettingsError as error:
        sys.exit(f"Settings that are not accepted (see docs/settings.md):\n{error}")
    except StepFailedError as error:
        sys.exit(explain(error))
    except (PyMongoError, KafkaException) as error:
        sys.exit(explain(StepFailedError(sentence(error), hint="make status")))
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command goes on from here.")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
