"""What the state of an installation is: its format, who wrote it, and what cannot change while it exists.

`state.json` in the home names the format and the release that wrote it last. A home without one that holds anything is
that of release 0.1.0, format 1. To change the layout, append a function to `MIGRATIONS` that brings the layout before
to the new one; it must also work on a layout that it has changed in part.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from flight_delays.answers.sink import GROUP
from flight_delays.contract import REQUEST_TOPIC
from flight_delays.infra import mongo
from flight_delays.infra.files import write_atomically
from flight_delays.infra.kafka import client_options
from flight_delays.predictor.state import change_state, read_state
from flight_delays.settings import PROJECT, Settings
from flight_delays_airflow.names import ASSETS
from stack.steps import StepFailedError


def _asset_uris(settings: Settings) -> None:
    """Format 2: the assets have other URIs. Airflow would activate those a minute after the start, too late."""
    database = settings.home / "airflow" / "airflow.db"
    if database.exists():
        with closing(sqlite3.connect(database)) as connection, connection:
            for name, (_, uri) in ASSETS.items():
                for table in ("asset", "asset_active"):
                    connection.execute(f"UPDATE {table} SET uri = ? WHERE name = ?", (uri, name.value))  # noqa: S608


MIGRATIONS: tuple[Callable[[Settings], None], ...] = (_asset_uris,)
"""The i-th brings format i + 1 to format i + 2."""

UNFINISHED_RESTORE = ".restore"
"""A file in the home: a restore is moving the state in, or was cut off while it did."""

RESTORED_IN_PART = ".restored-in-part"
"""A file in the home: MongoDB, Kafka or Spark hold other data than the backup knew; see `finish_restore`."""

_CODE = ("include", "plugins", "spark_jobs", "stack", "webapp", "requirements.lock")


def found_format(settings: Settings) -> int | None:
    """The format of the state in the home; None where there is no state yet. Raises StepFailedError if unreadable."""
    path = settings.home / "state.json"
    try:
        return int(json.loads(path.read_text())["format"])
    except FileNotFoundError:
        return 1 if any((settings.home / name).exists() for name in ("kafka", "mongo", "models")) else None
    except (ValueError, KeyError, TypeError) as error:
        raise StepFailedError(
            f"{path} is damaged ({error}); expected JSON with format and release",
            hint='restore it from a backup, or, where no older release was in use, write {"format": FORMAT} '
            f"with the format {len(MIGRATIONS) + 1} of this release",
        ) from error


def check(settings: Settings) -> str:
    """Raises StepFailedError for a state that this code and these settings cannot go on with; changes nothing."""
    if (settings.home / UNFINISHED_RESTORE).exists():
        hint = "run it again: make restore BACKUP=FILE"
        raise StepFailedError(f"a restore into {settings.home} was cut off", hint=hint)
    found, mine = found_format(settings), len(MIGRATIONS) + 1
    if found is not None and found > mine:
        raise StepFailedError(
            f"the state in {settings.home} has format {found} and was written by release {_release(settings)}; this "
            f"code, release {release()}, knows formats up to {mine}",
            hint=f"check out release {_release(settings)} or later, or use another folder: FLIGHTS_HOME=FOLDER make up",
        )
    partitions = len(list((settings.home / "kafka" / "data").glob(f"{REQUEST_TOPIC}-*")))
    if not settings.kafka_is_external and partitions not in (0, settings.topic_partitions):
        raise StepFailedError(
            f"FLIGHTS_TOPIC_PARTITIONS is {settings.topic_partitions}, but the topics in {settings.home} have "
            f"{partitions} partitions, and a topic keeps its number",
            hint=f"set FLIGHTS_TOPIC_PARTITIONS={partitions}, or start over with another number: make down clean up",
        )
    by_mongod = not settings.mongo_is_external and (settings.home / "mongo" / "WiredTiger").exists()
    if by_mongod and shutil.which("mongod") is None:
        raise StepFailedError(
            f"the answers in {settings.home / 'mongo'} were written by a mongod, and there is none on the PATH",
            hint="put it on the PATH again, or name your MongoDB in MONGO_URI",
        )
    return "fits"


def migrate(settings: Settings) -> str:
    """Brings the state to this code's format, step by step, and notes who wrote it; says in a word what was done."""
    check(settings)
    found, mine = found_format(settings), len(MIGRATIONS) + 1
    _note(settings, found or mine)
    for number in range(found or mine, mine):
        MIGRATIONS[number - 1](settings)
        _note(settings, number + 1)
    return "new" if found is None else "as it was" if found == mine else f"format {found} brought to {mine}"


def finish_restore(settings: Settings) -> None:
    """Makes MongoDB and Kafka agree after a restore of only one of them; call before sink and predictor start.

    Kafka may count answers as delivered that this MongoDB never got, and MongoDB may name a deployment without a
    checkpoint. So the sink reads its topics from the beginning, and so does the next deployment; first answers stay.
    """
    _delete_group(settings)
    with mongo.database(settings) as db:
        found = read_state(db)
        sessions = [*found.retiring, *(each.session_id for each in found.deployments)]
        retiring = sessions if settings.spark_connect_is_external else ()  # there, their queries may still run
        change_state(db, found, serving=None, candidate=None, retiring=tuple(retiring))
    (settings.home / RESTORED_IN_PART).unlink()


@retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(30), wait=wait_fixed(0.5), reraise=True)
def _delete_group(settings: Settings) -> None:
    """The sink's; one that was killed counts as a member of it for some seconds."""
    admin = AdminClient(client_options(settings))  # its futures never end without it
    try:
        admin.delete_consumer_groups([GROUP], request_timeout=10)[GROUP].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise


def release() -> str:
    """The release of this code."""
    return version("flight-delays")


def _note(settings: Settings, number: int) -> None:
    text = json.dumps({"format": number, "release": release()})
    write_atomically(settings.home / "state.json", text + "\n")


def _release(settings: Settings) -> str:
    return str(json.loads((settings.home / "state.json").read_text()).get("release", "unknown"))


# --- what a running stack was started with ---------------------------------------------------------------------------


def remember_start(settings: Settings) -> None:
    """Notes the code, the settings and the ports with which the services start."""
    started = _fingerprints(settings) | {"environment": settings.environment}
    write_atomically(settings.home / "run" / "started.json", json.dumps(started))


def started_environment(settings: Settings) -> dict[str, str]:
    """The variables by which a command finds the services that run; empty where release 0.1.0 started them."""
    return dict(_started(settings).get("environment", {}))


def changed_since_start(settings: Settings) -> list[str]:
    """What the running services do not know yet: "code", "settings"; empty where nothing changed."""
    if not (started := _started(settings)):
        return ["code"]
    return [name for name, value in _fingerprints(settings).items() if started.get(name) != value]


def _started(settings: Settings) -> dict[str, Any]:
    try:
        return dict(json.loads((settings.home / "run" / "started.json").read_text()))
    except (OSError, ValueError):  # started by release 0.1.0
        return {}


def _fingerprints(settings: Settings) -> dict[str, str]:
    code = hashlib.sha256()
    for name in _CODE:
        for path in sorted([PROJECT / name, *(PROJECT / name).rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                code.update(f"{path.relative_to(PROJECT)}\0".encode() + path.read_bytes())
    return {"code": code.hexdigest(), "settings": hashlib.sha256(settings.model_dump_json().encode()).hexdigest()}
