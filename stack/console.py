"""What the commands print: status, models, topics, listen, predictions, logs; and clean."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from contextlib import suppress

import psutil
from confluent_kafka import OFFSET_END, TopicPartition
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from flight_delays.answers.store import last_predictions
from flight_delays.contract import BUCKETS, TOPICS
from flight_delays.errors import RegistryError, sentence
from flight_delays.infra import kafka, mongo
from flight_delays.infra.printable import one_line, printable
from flight_delays.model import registry
from flight_delays.predictor.status import Condition, read_status, rows
from flight_delays.settings import Settings
from stack.secrets import load_secrets
from stack.services import services
from stack.steps import START, StepFailedError
from stack.supervisor import Supervisor
from stack.up import running_already


def status(settings: Settings) -> None:
    """Prints processes and the predictor's status. Raises StepFailedError where one is unhealthy."""
    secrets = load_secrets(settings)
    supervisor = Supervisor(settings)
    if not supervisor.running():
        raise StepFailedError("the stack does not run", hint="make up")
    console = Console(highlight=False)
    columns = [Column(name, overflow="fold") for name in ("service", "process", "health", "memory")]
    table = Table(*columns, title=f"Processes of {settings.home}", title_justify="left")
    states, wanted, unhealthy = supervisor.states(), services(settings, secrets), []
    running_already(settings, {*states}, wanted)
    for service in wanted:
        state = states[service.name]
        try:
            service.ready(settings)
            answer = "ready"
        except Exception as error:  # noqa: BLE001 - the reason is what is shown
            answer = f"unhealthy: {sentence(error)}"
            unhealthy.append(service.name)
        memory = f"{memory_bytes(state['pid']) / 2**20:.0f} MiB" if state["pid"] else ""
        process = f"{state['statename'].lower()}, {state['description']}"
        table.add_row(service.name, _text(process), _text(answer), memory)
    console.print(table)
    console.print(f"memory in all: {memory_bytes(supervisor.pid()) / 2**20:.0f} MiB (proportional set size)")
    unhealthy += predictor_status(settings, console)
    if unhealthy:
        hint = "make logs; a run of the DAG flight_delay_predictor repairs"
        raise StepFailedError(f"unhealthy: {', '.join(unhealthy)}", hint=hint)


def predictor_status(settings: Settings, console: Console) -> list[str]:
    """Prints the predictor's status; returns who is unhealthy."""
    found = read_status(settings)
    table = Table(title="Predictor", title_justify="left", show_header=False)
    for row in rows(found):
        table.add_row(*map(_text, row))
    console.print(table)
    if found.events:
        table = Table("time (UTC)", "event", "duration", "reason", title="Events", title_justify="left")
        for event in found.events[:5]:
            when = f"{event.At.astimezone(dt.UTC):%m-%d %H:%M:%S}"
            table.add_row(when, event.Kind.value.replace("_", " "), f"{event.Seconds:.1f} s", _text(event.Reason))
        console.print(table)
    for problem in found.problems:
        console.print(_text(f"predictor: {problem}"), style="red")
    if found.condition is Condition.STOPPED:
        console.print(f"A person stopped it; it starts with: {START}", markup=False)
    return [] if found.healthy or found.condition is Condition.ABSENT else ["predictor"]


def _text(text: str) -> Text:
    return Text(printable(text))


def memory_bytes(pid: int) -> int:
    """Proportional set size in bytes of a process and all below it (resident size where the system has no such)."""
    total, processes = 0, []
    with suppress(psutil.Error):
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        with suppress(psutil.Error):  # it has ended meanwhile
            info = process.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total


def models(settings: Settings) -> None:
    """Prints the model versions, newest first: scores on each one's holdout, and why it serves or does not.

    Raises StepFailedError at the end where the pointer is unreadable.
    """
    console = Console(highlight=False)  # no table: at 80 columns its cells would cut the names and the reasons
    pointer, problem = registry.Pointer(), ""
    try:
        pointer = registry.read_pointer(settings.models)
    except RegistryError as error:
        problem = str(error)
    for version in registry.versions(settings.models):
        console.print(_text(version), style="bold")
        try:
            lines = _model(settings, version, pointer)
        except RegistryError as error:
            lines = f"serves: no: {error}"
        console.print(Padding(_text(lines), (0, 0, 0, 2)))
    if problem:
        raise StepFailedError(problem)


def _model(settings: Settings, version: str, pointer: registry.Pointer) -> str:
    metadata = registry.load_metadata(settings.models, version)
    verdict = registry.read_verdict(settings.models, version)
    scores = metadata.metrics
    serves = {pointer.champion: "yes, the champion", pointer.previous: "no, the previous one"}.get(version, "no")
    if verdict is None:
        serves += "; never judged"
    elif verdict.history:
        serves += f"; {verdict.history[-1]}"
    elif verdict.passed:
        serves += "; passed, but not promoted: not approved, or the run ended before"
    if verdict and verdict.reasons:
        serves += f"; {'forced, though' if verdict.forced else 'unfit:'} {'; '.join(verdict.reasons)}"
    return f"""serves: {serves}
accuracy {scores.accuracy:.3f}, log-loss {scores.log_loss:.3f}, calibration error {scores.calibration_error:.3f}
trained {metadata.trained_at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"""


def topics(settings: Settings) -> None:
    """Prints the topics with partitions and numbers of messages."""
    table = Table("topic", "partitions", "messages")
    with kafka.reader(settings) as consumer:
        for topic in TOPICS:
            found = kafka.bounds(consumer, settings, topic).values()
            table.add_row(topic, str(len(found)), str(sum(high - low for low, high in found)))
    Console().print(table)


def listen(settings: Settings) -> None:
    """Prints the messages of all topics as they come, until interrupted."""
    with suppress(KeyboardInterrupt), kafka.reader(settings) as consumer:
        places = [place for topic in TOPICS for place in kafka.partitions_of(consumer, settings, topic)]
        consumer.assign([TopicPartition(place.topic, place.partition, OFFSET_END) for place in places])
        print("Listening to all topics; Ctrl-C ends it.", file=sys.stderr)
        while True:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                value = one_line((message.value() or b"").decode(errors="replace"))
                print(f"{message.topic()}[{message.partition()}]@{message.offset()} {value}", flush=True)


def predictions(settings: Settings, count: int, *, as_json: bool = False) -> None:
    """Prints the last answers, newest first: a table, or for programs a JSON document a line."""
    with mongo.database(settings) as db:
        documents = last_predictions(db, count)
    if as_json:
        for document in documents:
            print(json.dumps(document, default=lambda value: getattr(value, "isoformat", value.__str__)()))
        return
    table = Table("at (UTC)", "flight", "on", "departs", "prediction")
    for answer in documents:
        number = f"{answer['Carrier']}{answer.get('FlightNum') or ''}"
        bucket, probability = BUCKETS[answer["Prediction"]], answer["Probability"][answer["Prediction"]]
        table.add_row(
            f"{answer['PredictedAt'].astimezone(dt.UTC):%m-%d %H:%M}",
            _text(f"{number} {answer['Origin']} → {answer['Dest']}"),
            f"{answer['FlightDate']:%Y-%m-%d}",
            f"{answer['DepDelay']:+.0f} min",
            f"{bucket.label.partition(' (')[0]} {probability:.0%}",
        )
    Console(highlight=False).print(table)


def logs(settings: Settings, service: str | None) -> None:
    """Follows the logs of one service, or of all."""
    files = sorted((settings.home / "logs").glob(f"{service or '*'}.log"))
    if not files:
        why = f"there is no log of {service or 'any service'} in {settings.home / 'logs'}"
        raise StepFailedError(why, hint="make up")
    with subprocess.Popen(["tail", "-n", "30", "-F", *map(str, files)], stdout=subprocess.PIPE) as tail:
        try:
            for line in tail.stdout or ():
                print(printable(line.decode(errors="replace").removesuffix("\n")), flush=True)
        finally:
            tail.terminate()


def clean(settings: Settings, *, assume_yes: bool) -> None:
    """Removes all state of a stopped stack but its backups, after asking."""
    if Supervisor(settings).running():
        raise StepFailedError("the stack is running", hint="make down")
    if not assume_yes:
        print(f"This removes all data, models, answers and passwords, but no backups, in\n{settings.home}")
        if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return
    for path in settings.home.iterdir():
        if path.is_dir() and path.name != "backups":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    with suppress(OSError):  # backups are in it
        settings.home.rmdir()
    print(f"Removed the state in {settings.home}.")
