"""Control of the streaming predictor: the one module that starts, finds, questions, replaces and stops its query.

The query lives on a Spark Connect server, in a session of a known id: whoever knows the id finds the query again, from
any process and after any restart of Airflow. What is deployed stands in one document of `Collection.STATE`:

- `generation` counts the deployments and is changed by compare-and-set: of two that start at once, one fails.
- `serving` is the deployment whose canaries came back last; `candidate` is one that has not proved itself yet;
  `retiring` are Spark sessions to be stopped. A run that was killed leaves the last two behind, the next one clears up.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel

from flight_delays import canary, registry, store
from flight_delays.contract import Collection

if TYPE_CHECKING:
    from pymongo.database import Database
    from pyspark.sql import SparkSession

    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

QUERY_NAME: Final = "flight_delay_predictor"
SPARK_USER: Final = "flight_delays"
_STATE_ID: Final = "flight_delay_predictor"


class PredictorError(RuntimeError):
    """The predictor is not as it should be; the message says in one sentence what is wrong and what to do."""


class Deployment(BaseModel):
    """One start of the query: `generation` is the `Deployment` in its answers."""

    generation: int
    version: str
    session_id: str
    checkpoint: str
    query_id: str = ""
    run_id: str = ""
    started_at: AwareDatetime


class State(BaseModel):
    """The document of `Collection.STATE`."""

    generation: int = 0
    serving: Deployment | None = None
    candidate: Deployment | None = None
    retiring: list[str] = []


class Action(StrEnum):
    """What `reconcile` did."""

    UNCHANGED = "unchanged"
    STARTED = "started"
    REPAIRED = "repaired"
    REPLACED = "replaced"


@dataclass(frozen=True)
class Outcome:
    """What `reconcile` did, for which deployment, and the seconds its canaries took to come back."""

    action: Action
    deployment: Deployment
    canary_seconds: float

    def summary(self) -> dict[str, Any]:
        """The outcome in JSON's types, for a task's result."""
        deployment = self.deployment.model_dump(mode="json")
        return {"action": self.action.value, "canary_seconds": round(self.canary_seconds, 3), **deployment}


def reconcile(settings: Settings) -> Outcome:
    """Brings about that the champion serves, and returns only when its canaries came back through MongoDB.

    A running, healthy query of the champion is left alone. An ill one is started again on its own checkpoint. Where
    the pointer names another model, the new query starts beside the old one, from the old one's last committed
    offsets, and the old one stops only once the new one has answered its canaries: no request waits for either.

    Raises PredictorError, canary.CanaryError or registry.RegistryError with the reason; a query that served before
    goes on serving then.
    """
    version = registry.read_pointer(settings.models).champion
    if version is None:
        raise PredictorError(
            "there is no model to serve yet; run the DAG agile_data_science_batch_prediction_model_training"
        )
    db = store.connect(settings)
    state = _clear_up(db, settings, read_state(db))
    serving = state.serving
    if serving is not None and serving.version == version:
        illness = _illness(settings, serving)
        if illness is None:
            try:
                return Outcome(Action.UNCHANGED, serving, _prove(db, settings, serving))
            except canary.CanaryError as error:
                illness = str(error)
        log.warning("deployment %d is ill: %s", serving.generation, illness)
        return _repair(db, settings, state, serving)
    return _replace(db, settings, state, version)


def check(settings: Settings) -> Deployment | None:
    """The serving deployment where its query is active and without exception; None where nothing was deployed yet.

    Raises PredictorError with the reason otherwise. That predictions come back is for canaries to prove.
    """
    serving = read_state(store.connect(settings)).serving
    if serving is None:
        return None
    illness = _illness(settings, serving)
    if illness is not None:
        raise PredictorError(illness)
    return serving


def read_state(db: Database[dict[str, Any]]) -> State:
    """What was deployed last."""
    return State.model_validate(db[Collection.STATE].find_one({"_id": _STATE_ID}) or {})


# --- the three ways to a running query -------------------------------------------------------------------------------


def _repair(db: Database[dict[str, Any]], settings: Settings, state: State, ill: Deployment) -> Outcome:
    """The same model on the same checkpoint: nothing is lost, and at most one batch is answered again."""
    candidate = _claim(db, state, ill.version, ill.checkpoint)
    _stop_session(settings, ill.session_id)
    candidate = _start(db, settings, candidate, "earliest")
    seconds = _prove(db, settings, candidate)
    _accept(db, candidate, retiring=[])
    return Outcome(Action.REPAIRED, candidate, seconds)


def _replace(db: Database[dict[str, Any]], settings: Settings, state: State, version: str) -> Outcome:
    registry.verify(settings.models, version)
    old = state.serving
    offsets = "earliest" if old is None else _committed_offsets(settings.checkpoints / old.checkpoint)
    candidate = _claim(db, state, version, None)
    try:
        candidate = _start(db, settings, candidate, offsets)
        seconds = _prove(db, settings, candidate)
    except Exception:
        if old is not None:  # it serves on; a first deployment is left for the next run to find and repair
            _clear_up(db, settings, read_state(db))
        raise
    _accept(db, candidate, retiring=[] if old is None else [old.session_id])
    _clear_up(db, settings, read_state(db))
    return Outcome(Action.STARTED if old is None else Action.REPLACED, candidate, seconds)


def _start(
    db: Database[dict[str, Any]], settings: Settings, deployment: Deployment, starting_offsets: str
) -> Deployment:
    from pyspark.ml import PipelineModel

    from spark_jobs import streaming_predictor

    registry.verify(settings.models, deployment.version)
    checkpoint = settings.checkpoints / deployment.checkpoint
    log.info(
        "starting deployment %d: model %s, checkpoint %s, offsets %s",
        *(deployment.generation, deployment.version, checkpoint, starting_offsets),
    )
    with _session(settings, deployment.session_id) as spark:
        streaming_predictor.configure(spark)
        model = PipelineModel.load(str(registry.pipeline_path(settings.models, deployment.version)))
        requests = streaming_predictor.read_requests(spark, settings, starting_offsets)
        outgoing = streaming_predictor.answers(requests, model, deployment.version, deployment.generation)
        query = streaming_predictor.start(outgoing, settings, checkpoint, QUERY_NAME)
    log.info("query %s, run %s started", query.id, query.runId)
    started = deployment.model_copy(update={"query_id": str(query.id), "run_id": str(query.runId)})
    _compare_and_set(db, started.generation, {"candidate": started.model_dump()})
    return started


def _prove(db: Database[dict[str, Any]], settings: Settings, deployment: Deployment) -> float:
    """Seconds until a canary for each partition was back; where none is, the query's own exception is the reason."""
    uuids = canary.send_canaries(settings)
    try:
        return canary.await_canaries(db, uuids, deployment.generation, settings.canary_timeout_seconds)
    except canary.CanaryError as error:
        if (illness := _illness(settings, deployment)) is not None:
            raise PredictorError(illness) from error
        raise


# --- the state -------------------------------------------------------------------------------------------------------


def _claim(db: Database[dict[str, Any]], state: State, version: str, checkpoint: str | None) -> Deployment:
    """Takes the next generation for a candidate. Raises PredictorError where another run took it first."""
    generation = state.generation + 1
    session_id = str(uuid4())  # never a used one: a stopped session's id is burnt until the server restarts
    candidate = Deployment(
        generation=generation,
        version=version,
        session_id=session_id,
        checkpoint=checkpoint or f"{generation:06d}-{session_id[:8]}",
        started_at=dt.datetime.now(dt.UTC),
    )
    _compare_and_set(db, state.generation, {"generation": generation, "candidate": candidate.model_dump()})
    return candidate


def _accept(db: Database[dict[str, Any]], candidate: Deployment, *, retiring: list[str]) -> None:
    change = {"serving": candidate.model_dump(), "candidate": None, "retiring": retiring}
    _compare_and_set(db, candidate.generation, change)


def _clear_up(db: Database[dict[str, Any]], settings: Settings, state: State) -> State:
    """Stops what a killed run left behind, so that never two queries answer for long."""
    leftovers = [*state.retiring, *([state.candidate.session_id] if state.candidate else [])]
    if not leftovers:
        return state
    for session_id in leftovers:
        _stop_session(settings, session_id)
    _compare_and_set(db, state.generation, {"candidate": None, "retiring": []})
    return read_state(db)


def _compare_and_set(db: Database[dict[str, Any]], generation: int, change: dict[str, Any]) -> None:
    from pymongo.errors import DuplicateKeyError

    try:
        result = db[Collection.STATE].update_one(
            {"_id": _STATE_ID, "generation": generation}, {"$set": change}, upsert=generation == 0
        )
    except DuplicateKeyError:
        result = None
    if result is None or not (result.matched_count or result.upserted_id):
        raise PredictorError(
            f"another deployment went on while this one (from generation {generation}) was under way; it decides, and "
            "this one ends here"
        )


def ping(settings: Settings) -> None:
    """Raises PredictorError where the Spark Connect server does not answer within 5 s."""
    import grpc

    address = settings.spark_connect_url.removeprefix("sc://").split("/")[0]
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=5)
        except grpc.FutureTimeoutError as error:
            raise PredictorError(
                f"the Spark Connect server does not answer at {address} (FLIGHTS_SPARK_CONNECT_URL)"
            ) from error


# --- Spark -----------------------------------------------------------------------------------------------------------


@contextmanager
def _session(settings: Settings, session_id: str) -> Iterator[SparkSession]:
    """The session of that id on the Spark Connect server, new or found again; left, not ended, at the end.

    Raises PredictorError where the server does not answer or the id is burnt.
    """
    from pyspark.errors.exceptions.connect import SparkConnectException, SparkConnectGrpcException
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client.retries import DefaultPolicy

    url = f"{settings.spark_connect_url}/;user_id={SPARK_USER};session_id={session_id}"
    session: Any = None
    ping(settings)
    try:
        session = SparkSession.builder.remote(url).create()
        session.client.set_retry_policies([DefaultPolicy(max_retries=6)])  # by default it tries for 10 minutes
        yield session
    except SparkConnectGrpcException as error:
        raise PredictorError(
            f"the Spark Connect server at {settings.spark_connect_url} says: {_first_line(error)}"
        ) from error
    except SparkConnectException as error:
        raise PredictorError(f"Spark says: {_first_line(error)}") from error
    finally:
        if session is not None:
            session.release_session_on_close = False  # the session and its query must outlive this process
            session.stop()


def _illness(settings: Settings, deployment: Deployment) -> str | None:
    """What is wrong with the deployment's query, or None."""
    from pyspark.sql.connect.streaming.query import StreamingQuery

    gone = (
        f"the query of deployment {deployment.generation} is gone from the Spark Connect server at "
        f"{settings.spark_connect_url}; a run of the DAG flight_delay_predictor starts it again"
    )
    try:
        with _session(settings, deployment.session_id) as spark:
            query = StreamingQuery(spark, deployment.query_id, deployment.run_id, QUERY_NAME)
            # An ended query is in no list, but the server still knows what it died of.
            exception = query.exception()
            if exception is not None:
                return f"the query of deployment {deployment.generation} ended with: {_first_line(exception)}"
            return None if query.isActive else gone
    except PredictorError as error:
        return gone if "STREAMING_QUERY_NOT_FOUND" in str(error) else str(error)


def _stop_session(settings: Settings, session_id: str) -> None:
    """Stops the session's query, and releases the session with the models that it holds."""
    try:
        with _session(settings, session_id) as spark:
            for query in spark.streams.active:
                query.stop()
            spark.stop()
    except PredictorError as error:
        if "SESSION_CLOSED" not in str(error):
            raise  # a server that does not answer may still run the query
    log.info("session %s stopped", session_id)


def _committed_offsets(checkpoint: Path) -> str:
    """Where a successor starts: the offsets of the last batch that was committed, as JSON for `startingOffsets`.

    Before the first commit, those from which the query itself began. A batch under way is answered twice; the first
    answer stays. Layout: Spark's checkpoint folder, `offsets/N` (version, metadata, one line a source), `commits/N`.
    """
    commits = sorted((int(file.name) for file in (checkpoint / "commits").glob("[0-9]*")), reverse=True)
    for batch in commits:
        offsets = checkpoint / "offsets" / str(batch)
        if offsets.is_file():
            return _last_json_line(offsets)
    initial = checkpoint / "sources" / "0" / "0"
    return _last_json_line(initial) if initial.is_file() else "earliest"


def _last_json_line(file: Path) -> str:
    line = file.read_text().strip().splitlines()[-1]
    return json.dumps(json.loads(line))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__
