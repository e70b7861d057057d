"""How the predictor does right now: one `Status`, which Airflow's page, the web app and `make status` show alike."""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pymongo.errors import PyMongoError

from flight_delays import store
from flight_delays.canary import BrokerError, partitions_of, reader
from flight_delays.contract import REQUEST_TOPIC, Collection
from flight_delays.predictor.events import Event, last_events
from flight_delays.predictor.state import PredictorError, State, Wanted, read_state
from flight_delays.registry import Pointer, RegistryError, read_pointer

if TYPE_CHECKING:
    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

WINDOW: Final = dt.timedelta(minutes=5)
LATEST: Final = 1000
"""So many documents of a collection are looked at, from its end."""
SILENT: Final = dt.timedelta(seconds=60)
"""A request that waits for longer is one that the predictor does not answer."""
WAIT_SECONDS: Final = 3.0
_FIELDS: Final = ["PredictedAt", "Timestamp", "Deployment", "RequestPartition", "RequestOffset"]
_READ: Final = dict.fromkeys((Collection.RESPONSES, Collection.REPLAYS, Collection.CANARIES), _FIELDS) | {
    Collection.REJECTED: ["RejectedAt", "topic", "partition", "offset"]
}


class Condition(StrEnum):
    """The predictor in one word."""

    RUNNING = "running"
    """It answers what it is asked."""
    CHANGING = "changing"
    """A deployment is under way; what served before serves on."""
    SILENT = "silent"
    """It should answer, and has left a request without an answer for longer than `SILENT`."""
    STOPPED = "stopped"
    """A person stopped it."""
    ABSENT = "absent"
    """Nothing was deployed yet."""
    UNKNOWN = "unknown"
    """MongoDB, where all this is read, does not answer; `problems` says so."""


class Canary(BaseModel):
    """One canary's way: when it left, and the milliseconds until its answer was on Kafka."""

    model_config = ConfigDict(frozen=True)

    At: AwareDatetime
    Generation: int
    Milliseconds: float


class Status(BaseModel):
    """What `status()` found; None and empty where it could not be found, `problems` says why in sentences."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    condition: Condition
    wanted: Wanted | None = None
    version: str | None = None
    """The model that serves."""
    champion: str | None = None
    """The model that should."""
    failed: dict[str, str] = {}
    """Versions that are not tried again, and why."""
    generation: int | None = None
    since: AwareDatetime | None = None
    """When the serving query was started; None while stopped."""
    window_seconds: float = 0
    """The last minutes over which the next four figures go; 0 where nothing was answered in them."""
    answers: int = 0
    per_second: float = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    """From a request's `Timestamp` to its answer's `PredictedAt`."""
    lag: int | None = None
    """Requests on Kafka, all partitions, behind the highest answered one."""
    dead_letters_hour: int | None = None
    canaries: tuple[Canary, ...] = ()
    """The last ones, newest first."""
    events: tuple[Event, ...] = ()
    """The last ones, newest first."""
    problems: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether it does what was asked of it: running, changing, or stopped by a person; nothing is unknown."""
        return self.condition in (Condition.RUNNING, Condition.CHANGING, Condition.STOPPED) and not self.problems


def status(settings: Settings) -> Status:
    """How the predictor does; raises nothing: what cannot be found out is in `problems`.

    Reads the ends of collections and topics only, some 20 ms; where MongoDB or Kafka does not answer, `WAIT_SECONDS`.
    """
    found: dict[str, Any] = {"at": dt.datetime.now(dt.UTC), "condition": Condition.UNKNOWN}
    problems: list[str] = []
    db = store.connect(settings, timeoutMS=int(WAIT_SECONDS * 1000))
    try:
        with _noting(problems, settings):
            state = read_state(db)
            found |= _from_state(state)
            pointer = _pointer(settings, problems)
            found["champion"] = pointer.champion
            problems += _in_place_of_the_champion(state, pointer)
            latest = {
                collection: list(db[collection].find({}, fields).sort("$natural", -1).limit(LATEST))
                for collection, fields in _READ.items()
            }
            found |= _figures(latest[Collection.RESPONSES], found["at"])
            hour = found["at"] - dt.timedelta(hours=1)
            found["dead_letters_hour"] = sum(d["RejectedAt"] > hour for d in latest[Collection.REJECTED])
            found["canaries"] = tuple(_canary(document) for document in latest[Collection.CANARIES][:10])
            found["events"] = tuple(last_events(db, 10))
            with _noting(problems, settings):
                found["lag"], oldest = _lag(settings, latest)
                if found["condition"] is Condition.RUNNING and oldest and found["at"] - oldest > SILENT:
                    found["condition"] = Condition.SILENT
                    problems.append(f"a request of {oldest:%H:%M:%S} UTC has no answer yet; the last event says why")
    finally:
        db.client.close()
    return Status(**found, problems=tuple(problems))


def rows(status: Status) -> list[tuple[str, str]]:
    """What people are shown, as labels and texts, in this order."""
    window = f"last {status.window_seconds / 60:.0f} min" if status.window_seconds >= 60 else "last minutes"
    shown = {
        "State": status.condition.value + _since(status),
        "Model": _model(status),
        "Deployment": _text(status.generation),
        f"Requests answered, {window}": f"{status.answers:,}{'+' if status.answers == LATEST else ''}"
        + (f", {status.per_second:.2f}/s" if status.answers else ""),
        "Time to answer, p50 / p99": f"{status.p50_ms:.0f} / {status.p99_ms:.0f} ms"
        if status.p50_ms is not None and status.p99_ms is not None
        else "",
        "Requests waiting (lag)": _text(status.lag),
        "Dead letters, last hour": _text(status.dead_letters_hour),
        "Last canary": f"{status.canaries[0].At:%Y-%m-%d %H:%M:%S} UTC, {status.canaries[0].Milliseconds:.0f} ms"
        if status.canaries
        else "",
    }
    absent = "unknown" if status.condition is Condition.UNKNOWN else "none"
    return [(label, text or absent) for label, text in shown.items()]


# --- what is read ----------------------------------------------------------------------------------------------------


@contextmanager
def _noting(problems: list[str], settings: Settings) -> Iterator[None]:
    """Turns what goes wrong within into a sentence."""
    try:
        yield
    except PyMongoError as error:
        address = settings.mongo_uri.rpartition("@")[2].removeprefix("mongodb://")
        problems.append(
            f"MongoDB does not answer at {address} (MONGO_URI; {str(error)[:120]}); look at its log "
            "(make logs SERVICE=mongo)"
        )
    except Exception as error:
        if not isinstance(error, (PredictorError, BrokerError, RegistryError)):
            log.exception("the status is incomplete")
        problems.append(str(error) or type(error).__name__)


def _pointer(settings: Settings, problems: list[str]) -> Pointer:
    with _noting(problems, settings):
        return read_pointer(settings.models)
    return Pointer()


def _from_state(state: State) -> dict[str, Any]:
    stopped = state.wanted is Wanted.STOPPED
    condition = Condition.RUNNING
    if state.half_done:
        condition = Condition.CHANGING
    elif stopped:
        condition = Condition.STOPPED
    elif state.serving is None:
        condition = Condition.ABSENT
    return {
        "condition": condition,
        "wanted": state.wanted,
        "version": state.serving.version if state.serving else None,
        "generation": state.serving.generation if state.serving else None,
        "since": state.serving.started_at if state.serving and not stopped else None,
        "failed": {version: failure.reason for version, failure in state.failed.items()},
    }


def _in_place_of_the_champion(state: State, pointer: Pointer) -> list[str]:
    failure = state.failure(pointer)
    if failure is None or state.serving is None or state.serving.version == pointer.champion:
        return []
    return [f"{state.serving.version} serves in place of the champion {pointer.champion}: {failure.reason}"]


def _figures(answers: list[dict[str, Any]], now: dt.datetime) -> dict[str, Any]:
    """Rate and latency of the answers of the last minutes, or of the last `LATEST`, where there were more."""
    recent = [answer for answer in answers if answer["PredictedAt"] > now - WINDOW]
    if not recent:
        return {}
    took = sorted(1000 * (answer["PredictedAt"] - answer["Timestamp"]).total_seconds() for answer in recent)
    oldest = min(answer["PredictedAt"] for answer in recent)
    window = WINDOW.total_seconds() if len(recent) < LATEST else (now - oldest).total_seconds()
    return {
        "window_seconds": window,
        "answers": len(recent),
        "per_second": len(recent) / window,
        "p50_ms": _percentile(took, 0.5),
        "p99_ms": _percentile(took, 0.99),
    }


def _percentile(ascending: list[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least that share does not exceed."""
    return ascending[math.ceil(share * len(ascending)) - 1]


def _canary(document: dict[str, Any]) -> Canary:
    took = document["PredictedAt"] - document["Timestamp"]
    milliseconds = round(1000 * took.total_seconds(), 1)
    return Canary(At=document["Timestamp"], Generation=document["Deployment"], Milliseconds=milliseconds)


def _lag(settings: Settings, latest: dict[Collection, list[dict[str, Any]]]) -> tuple[int, dt.datetime | None]:
    """Requests behind the highest answered one, of all partitions, and when the oldest of them was put on Kafka.

    Raises BrokerError.
    """
    answered: dict[int, int] = {}
    for collection, documents in latest.items():
        names = ("partition", "offset") if collection is Collection.REJECTED else ("RequestPartition", "RequestOffset")
        for document in documents:
            partition, offset = (document.get(name, -1) for name in names)
            if document.get("topic", REQUEST_TOPIC) == REQUEST_TOPIC:  # what the sink set aside names another
                answered[partition] = max(offset, answered.get(partition, -1))
    lag, oldest = 0, None
    with reader(settings) as consumer:
        for place in partitions_of(consumer, settings, REQUEST_TOPIC):
            low, high = consumer.get_watermark_offsets(place, timeout=WAIT_SECONDS)
            place.offset = max(low, answered.get(place.partition, -1) + 1)
            if place.offset >= high:
                continue
            lag += high - place.offset
            consumer.assign([place])
            if (message := consumer.poll(WAIT_SECONDS)) is not None and message.error() is None:
                at = dt.datetime.fromtimestamp(message.timestamp()[1] / 1000, dt.UTC)
                oldest = min(at, oldest or at)
    return lag, oldest


# --- how it is shown -------------------------------------------------------------------------------------------------


def _since(status: Status) -> str:
    if status.since is None:
        return ""
    up = dt.timedelta(seconds=int((status.at - status.since).total_seconds()))
    return f", this query for {up} (since {status.since:%Y-%m-%d %H:%M:%S} UTC)"


def _model(status: Status) -> str:
    if status.version is None or status.version == status.champion:
        return status.version or ""
    return f"{status.version} (the champion is {status.champion})"


def _text(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
