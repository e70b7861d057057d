"""Command lines: from functions to subcommands, and from their errors to what a person reads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from confluent_kafka import KafkaException
from pymongo.errors import PyMongoError

from flight_delays.errors import BrokerError, sentence
from flight_delays.predictor.state import Action
from flight_delays.settings import Settings, SettingsError
from stack import console
from stack.steps import StepFailedError, explain

AddArgument = Callable[..., object]
Command = Callable[[str, str, Callable[..., object]], AddArgument]


def parser(prog: str, description: str, predictor: Callable[..., object]) -> tuple[argparse.ArgumentParser, Command]:
    """A parser with the commands that both the embedded stack and the containers have, and what adds another.

    A command's arguments are those of its function, after the settings; `predictor` is that of `predictor`.
    """
    found = argparse.ArgumentParser(prog=prog, description=description)
    commands = found.add_subparsers(required=True)

    def command(name: str, text: str, run: Callable[..., object]) -> AddArgument:
        """Adds a command; what it returns adds one of its arguments."""
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added.add_argument

    add = command("predictor", "start, stop, restart or deploy", predictor)
    add("action", choices=[each.value for each in Action], metavar="ACTION")
    add("version", nargs="?")
    command("models", "show the model versions, and why each serves or does not", console.models)
    command("topics", "show the Kafka topics", console.topics)
    command("listen", "show the messages as they come", console.listen)
    add = command("predictions", "show the last answers", console.predictions)
    add("--count", type=int, default=5)
    add("--json", action="store_true", dest="as_json", help="whole documents, a line each")
    return found, command


def run(
    parser: argparse.ArgumentParser, settings: Callable[[], Settings], *, hint: str, interrupted: str = "Interrupted."
) -> None:
    """Runs one command; exit status 1, with what failed and what to do, where it fails.

    `hint` is what to do where Kafka or MongoDB does not answer.
    """
    given = vars(parser.parse_args())
    function = given.pop("run")
    try:
        function(settings(), **given)
    except SettingsError as error:
        sys.exit(f"Settings that are not accepted (see docs/settings.md):\n{error}")
    except StepFailedError as error:
        sys.exit(explain(error))
    except (PyMongoError, KafkaException, BrokerError) as error:
        sys.exit(explain(StepFailedError(sentence(error), hint=hint)))
    except KeyboardInterrupt:
        sys.exit(interrupted)
