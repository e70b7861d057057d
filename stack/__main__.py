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
from flight_delays.errors import DataError, sentence
from flight_delays.predictor.state import Action
from flight_delays.settings import Settings, SettingsError, get_settings
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make", description="The embedded stack.")
    commands = parser.add_subparsers(required=True)

    def command(name: str, text: str, run: Callable[[Settings, argparse.Namespace], None]) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added

    starting = command("up", "start the stack; ends with a predicted flight", lambda s, given: up(s, given.months))
    starting.add_argument("--months", type=_months, help="the first model learns from these alone; default: all")
    command("down", "stop the stack", lambda s, _: down(s))
    command("status", "show processes, query, model and last canary", lambda s, _: console.status(s))
    acting = command(
        "predictor", "start, stop, restart or deploy", lambda s, given: act(s, given.action, given.version)
    )
    acting.add_argument("action", choices=[each.value for each in Action], metavar="ACTION")
    acting.add_argument("version", nargs="?")
    command("models", "show the model versions, and why each serves or does not", lambda s, _: console.models(s))
    command("topics", "show the Kafka topics", lambda s, _: console.topics(s))
    command("listen", "show the messages as they come", lambda s, _: console.listen(s))
    answers = command(
        "predictions", "show the last answers", lambda s, given: console.predictions(s, given.count, as_json=given.json)
    )
    answers.add_argument("--count", type=int, default=5)
    answers.add_argument("--json", action="store_true", help="whole documents, a line each")
    command("logs", "follow the logs", lambda s, given: console.logs(s, given.service)).add_argument(
        "service", nargs="?"
    )
    saving = command(
        "backup", "write a backup", lambda s, given: console.backup(s, given.path, may_stop=not given.no_stop)
    )
    saving.add_argument("path", nargs="?", type=Path)
    saving.add_argument("--no-stop", action="store_true", help="refuse where the stack runs")
    restoring = command(
        "restore", "restore a backup", lambda s, given: console.restore(s, given.path, force=given.force)
    )
    restoring.add_argument("path", type=Path)
    restoring.add_argument("--force", action="store_true", help="replace the state that is there")
    command("clean", "remove all state", lambda s, given: console.clean(s, assume_yes=given.yes)).add_argument(
        "--yes", action="store_true"
    )
    command("airflow", "run Airflow's own command line", _airflow).add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def _airflow(settings: Settings, given: argparse.Namespace) -> None:
    environment = inherited_environment() | airflow_environment(settings, load_secrets(settings))
    os.execve(BIN / "airflow", ["airflow", *given.rest], environment)


def main() -> None:
    """Runs one command; exit status 1, with what failed and what to do, where it fails."""
    given = _parser().parse_args()
    os.umask(0o077)
    try:
        settings = get_settings()
        make_private(settings)
        if Supervisor(settings).process() is not None:  # its ports count, not those of this command's environment
            os.environ |= state.started_environment(settings)
            get_settings.cache_clear()
            settings = get_settings()
        given.run(settings, given)
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
