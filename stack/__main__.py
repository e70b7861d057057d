"""`python -m stack COMMAND`: what the Makefile calls, once the virtual environment is there."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException
from pymongo.errors import PyMongoError

from flight_delays.data.sources import month_range
from flight_delays.data.sources.nycflights13 import MONTHS
from flight_delays.errors import BrokerError, DataError, sentence
from flight_delays.predictor.state import Action
from flight_delays.settings import Settings, SettingsError, get_settings
from stack import console, state
from stack.backup import backup, restore
from stack.secrets import load_secrets, make_private
from stack.services import BIN, airflow_environment, inherited_environment
from stack.steps import StepFailedError, explain
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make", description="The embedded stack.")
    commands = parser.add_subparsers(required=True)

    def command(name: str, text: str, run: Callable[..., object]) -> Callable[..., object]:
        """Adds a command whose arguments are those of `run`; what it returns adds one of them."""
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added.add_argument

    add = command("up", "start the stack; ends with a predicted flight", up)
    add("--months", type=_months, help="the first model learns from these alone; default: all")
    command("down", "stop the stack", down)
    command("status", "show processes, query, model and last canary", console.status)
    add = command("predictor", "start, stop, restart or deploy", act)
    add("action", choices=[each.value for each in Action], metavar="ACTION")
    add("version", nargs="?")
    command("models", "show the model versions, and why each serves or does not", console.models)
    command("topics", "show the Kafka topics", console.topics)
    command("listen", "show the messages as they come", console.listen)
    add = command("predictions", "show the last answers", console.predictions)
    add("--count", type=int, default=5)
    add("--json", action="store_true", dest="as_json", help="whole documents, a line each")
    command("logs", "follow the logs", console.logs)("service", nargs="?")
    add = command("backup", "write a backup", backup)
    add("path", nargs="?", type=Path)
    add("--no-stop", action="store_false", dest="may_stop", help="refuse where the stack runs")
    add = command("restore", "restore a backup", restore)
    add("path", type=Path)
    add("--force", action="store_true", help="replace the state that is there")
    command("clean", "remove all state", console.clean)("--yes", action="store_true", dest="assume_yes")
    command("airflow", "run Airflow's own command line", _airflow)("rest", nargs=argparse.REMAINDER)
    return parser


def _airflow(settings: Settings, rest: list[str]) -> None:
    environment = inherited_environment() | airflow_environment(settings, load_secrets(settings))
    os.execve(BIN / "airflow", ["airflow", *rest], environment)


def main() -> None:
    """Runs one command; exit status 1, with what failed and what to do, where it fails."""
    given = vars(_parser().parse_args())
    run = given.pop("run")
    os.umask(0o077)
    try:
        settings = get_settings()
        make_private(settings)
        if Supervisor(settings).process() is not None:  # its ports count, not those of this command's environment
            os.environ |= state.started_environment(settings)
            get_settings.cache_clear()
            settings = get_settings()
        run(settings, **given)
    except SettingsError as error:
        sys.exit(f"Settings that are not accepted (see docs/settings.md):\n{error}")
    except StepFailedError as error:
        sys.exit(explain(error))
    except (PyMongoError, KafkaException, BrokerError) as error:
        sys.exit(explain(StepFailedError(sentence(error), hint="make status")))
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command goes on from here.")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
