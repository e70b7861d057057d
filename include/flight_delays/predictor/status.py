"""The predictor's status: one `Status`, which Airflow's page, the web app and `make status` show alike."""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import pymongo
from pydantic import AwareDatetime, BaseModel, ConfigDict
from pymongo.errors import PyMongoError

from flight_delays.contract import ANSWER_PLACE, DEAD_LETTER_PLACE, REQUEST_TOPIC, Collection
from flight_delays.errors import BrokerError, PredictorError, RegistryError, sentence
from flight_delays.infra import mongo
from flight_delays.infra.kafka import bounds, messages_at, reader, since
from flight_delays.model.registry import Pointer, read_pointer
from flight_delays.predictor import timeouts
from flight_delays.predictor.events import Event, last_events
from flight_delays.predictor.state import State, Wanted, read_state
from flight_delays.predictor.workload import PLACES

if TYPE_CHECKING:
    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

WINDOW: Final = dt.timedelta(minutes=5)
LATEST: Final = 1000
"""Maximum number of documents that are read from the end of a collection."""
HOUR: Final = dt.timedelta(hours=1)
_PLACES: Final = dict.fromkeys((Collection.RESPONSES, Collection.REPLAYS, Collection.CANARIES), ANSWER_PLACE) | {
    Collection.REJECTED: DEAD_LETTER_PLACE
}
_READ: Final = ("PredictedAt", "RequestedAt", "Timestamp", "Deployment", "RejectedAt", "topic")


class Condition(StrEnum):
    """The predictor in one word."""

    RUNNING = "running"
    """It answers what it is asked."""
    CHANGING = "changing"
    """A deployment is under way; what served before serves on."""
    SILENT = "silent"
    """It should answer, and has left a request without an answer for longer than `timeouts.SILENT_SECONDS`."""
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
    """What `read_status` found; None and empty where it could not be found, `problems` says why in sentences."""

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
    answers: int | None = None
    """On Kafka in the last `WINDOW`, to requests of all kinds: canaries, replays and rejected ones, too."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    """From a person's request on Kafka to its answer, in the last `WINDOW`, of the newest `LATEST` at most."""
    lag: int | None = None
    """Requests on Kafka, all partitions, behind the highest answered one; all that it holds where none was."""
    dead_letters_hour: int | None = None
    canaries: tuple[Canary, ...] = ()
    """The last ones, newest first."""
    events: tuple[Event, ...] = ()
    """The last ones, newest first."""
    problems: tuple[str, ...] = ()

    @property
    def per_second(self) -> float | None:
        """`answers` per second."""
        return None if self.answers is None else self.answers / WINDOW.total_seconds()

    @property
    def healthy(self) -> bool:
        """Whether it does what was asked of it: running, changing, or stopped by a person; nothing is unknown."""
        return self.condition in (Condition.RUNNING, Condition.CHANGING, Condition.STOPPED) and not self.problems


def read_status(settings: Settings) -> Status:
    """The predictor's status; raises nothing: what cannot be found out is in `problems`.

    Reads the ends of collections and topics only. Takes at most 2 * `timeouts.STATUS_SECONDS` where neither Kafka nor
    MongoDB answers; each of some ten questions to a slow Kafka may take that long.
    """
    at = dt.datetime.now(dt.UTC)
    found: dict[str, Any] = {"condition": Condition.UNKNOWN}
    problems: list[str] = []
    pointer = Pointer()
    requests: dict[int, tuple[int, int]] = {}
    waiting: dict[int, int] = {}
    state = State()
    with _noting(problems, settings), reader(settings) as consumer:  # before the answers: what comes later is no lag
        requests = bounds(consumer, settings, REQUEST_TOPIC, timeouts.STATUS_SECONDS)
        answers = since(consumer, settings, PLACES, (at - WINDOW).timestamp(), timeouts.STATUS_SECONDS)
        found["answers"] = sum(end - begin for begin, end in answers.values())
    with _noting(problems, settings):
        pointer = read_pointer(settings.models)
    with _noting(problems, settings), pymongo.timeout(timeouts.STATUS_SECONDS), mongo.database(settings) as db:
        with _noting(problems, settings, but=PyMongoError):
            state = read_state(db)
            found |= _from_state(state)
            if state.serving is not None and (why := state.unserved(pointer, at)) is not None:
                problems.append(
                    f"{state.serving.version} serves in place of the champion {pointer.champion}: {why}; this "
                    "deploys it: make predictor ACTION=start"
                )
        with _noting(problems, settings, but=PyMongoError):
            found["events"] = tuple(last_events(db, 10))
        latest = {
            collection: list(db[collection].find({}, [*_READ, *place]).sort("$natural", -1).limit(LATEST))
            for collection, place in _PLACES.items()
        }
        with _noting(problems, settings):
            found |= _latency(latest[Collection.RESPONSES], at)
            found["dead_letters_hour"] = sum(d["RejectedAt"] > at - HOUR for d in latest[Collection.REJECTED])
            found["canaries"] = tuple(_canary(document) for document in latest[Collection.CANARIES][:10])
        if requests:
            waiting = _first_unanswered(requests, latest, state)
            found["lag"] = sum(requests[partition][1] - offset for partition, offset in waiting.items())
    if waiting and found["condition"] is Condition.RUNNING:
        with _noting(problems, settings):
            oldest = _oldest(settings, waiting)
            if oldest is not None and (at - oldest).total_seconds() > timeouts.SILENT_SECONDS:
                found["condition"] = Condition.SILENT
                problems.append(
                    f"A request of {oldest:%Y-%m-%d %H:%M:%S} UTC has no answer yet: the last event may say why, else "
                    "the logs (make logs SERVICE=spark-connect, make logs SERVICE=sink)"
                )
    return Status(at=at, champion=pointer.champion, **found, problems=tuple(problems))


def rows(status: Status) -> list[tuple[str, str]]:
    """What people are shown, as labels and texts, in this order."""
    state, model, latency, canary = status.condition.value, status.version, None, None
    if status.since is not None:
        up = dt.timedelta(seconds=int((status.at - status.since).total_seconds()))
        state += f", this query for {up} (since {status.since:%Y-%m-%d %H:%M:%S} UTC)"
    if model is not None and status.champion not in (None, model):
        model += f" (the champion is {status.champion})"
    if status.p50_ms is not None and status.p99_ms is not None:
        latency = f"{status.p50_ms:.0f} / {status.p99_ms:.0f} ms"
    if status.canaries:
        canary = f"{status.canaries[0].At:%Y-%m-%d %H:%M:%S} UTC, {status.canaries[0].Milliseconds:.0f} ms"
    answers = None if status.answers is None else f"{status.answers:,}, {status.per_second:.2f}/s"
    absent = "unknown" if status.condition is Condition.UNKNOWN else "none"
    return [
        ("State", state),
        ("Model", model or absent),
        ("Deployment", absent if status.generation is None else str(status.generation)),
        (f"Answers on Kafka, last {WINDOW.seconds // 60} min", answers or "unknown"),
        ("Time to answer, p50 / p99", latency or absent),
        ("Requests waiting (lag)", "unknown" if status.lag is None else f"{status.lag:,}"),
        ("Dead letters, last hour", "unknown" if status.dead_letters_hour is None else f"{status.dead_letters_hour:,}"),
        ("Last canary", canary or absent),
    ]


# --- what is read ----------------------------------------------------------------------------------------------------


@contextmanager
def _noting(problems: list[str], settings: Settings, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turns what goes wrong within, `but` excepted, into a sentence."""
    try:
        yield
    except but:
        raise
    except PyMongoError as error:
        address = settings.mongo_uri.rpartition("@")[2].rpartition("//")[2].partition("/")[0]
        problems.append(
            f"MongoDB does not answer at {address} (MONGO_URI; {sentence(error)}); look at its log "
            "(make logs SERVICE=mongo)"
        )
    except Exception as error:
        if not isinstance(error, (PredictorError, BrokerError, RegistryError)):
            log.exception("the status is incomplete")
        problems.append(sentence(error))


def _from_state(state: State) -> dict[str, Any]:
    stopped = state.wanted is Wanted.STOPPED
    condition = Condition.RUNNING
    if state.in_progress:
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


def _latency(answers: list[dict[str, Any]], now: dt.datetime) -> dict[str, float]:
    """Of the answers of the last minutes, from Kafka's times: `Timestamp` comes from a client's clock."""
    recent = [answer for answer in answers if answer["PredictedAt"] > now - WINDOW]
    # Answers of release 0.1.0 have one of the two times.
    times = [(answer["RequestedAt"], answer["PredictedAt"]) for answer in recent if "RequestedAt" in answer]
    took = sorted(1000 * (predicted - requested).total_seconds() for requested, predicted in times)
    return {"p50_ms": _percentile(took, 0.5), "p99_ms": _percentile(took, 0.99)} if took else {}


def _percentile(ascending: list[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least that share does not exceed."""
    return ascending[math.ceil(share * len(ascending)) - 1]


def _canary(document: dict[str, Any]) -> Canary:
    took = document["PredictedAt"] - document.get("RequestedAt", document["Timestamp"])
    milliseconds = round(1000 * took.total_seconds(), 1)
    return Canary(At=document["Timestamp"], Generation=document["Deployment"], Milliseconds=milliseconds)


def _first_unanswered(
    requests: dict[int, tuple[int, int]], latest: dict[Collection, list[dict[str, Any]]], state: State
) -> dict[int, int]:
    """Of each partition with requests behind the highest answered one, the offset of the first of them.

    Only answers that can be those of the topic of now count: of a deployment that reads it, to a request that is there.
    """
    first = {partition: low for partition, (low, _) in requests.items()}
    for collection, documents in latest.items():
        for document in documents:
            partition, offset = (document.get(name, -1) for name in _PLACES[collection])
            ours = document.get("topic", REQUEST_TOPIC) == REQUEST_TOPIC  # what the sink rejected names another topic
            of_now = document.get("Deployment", 0) >= state.topic_since and offset < requests.get(partition, (0, -1))[1]
            if ours and of_now:
                first[partition] = max(first[partition], offset + 1)
    for gap in sorted(state.gaps, key=lambda gap: gap.first):
        if gap.first <= first.get(gap.partition, -1) <= gap.last:
            first[gap.partition] = gap.last + 1
    return {partition: offset for partition, offset in first.items() if offset < requests[partition][1]}


def _oldest(settings: Settings, places: dict[int, int]) -> dt.datetime | None:
    """When the oldest of the messages there (partition, offset) was put on Kafka; None where none can be read."""
    found = messages_at(settings, REQUEST_TOPIC, places, timeouts.STATUS_SECONDS).values()
    return min((dt.datetime.fromtimestamp(each.timestamp()[1] / 1000, dt.UTC) for each in found), default=None)
