"""The engine: the Spark Connect server on which the query lives, in a session of a known id.

Any process that knows the id finds the query again, also after a restart of Airflow.
"""

from __future__ import annotations

import logging
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from flight_delays.contract import REQUEST_TOPIC
from flight_delays.errors import PredictorError, RegistryError, sentence
from flight_delays.infra.kafka import ends
from flight_delays.model import registry
from flight_delays.predictor.state import Deployment
from flight_delays.predictor.timeouts import SERVER_SECONDS, SLOTS_SECONDS
from flight_delays.predictor.workload import QUERY_NAME, start_query

if TYPE_CHECKING:
    from pyspark.ml import PipelineModel
    from pyspark.sql import SparkSession

    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 15002
"""Spark Connect's, where the URL names none."""
SPARK_USER: Final = "flight_delays"


class SlotsError(PredictorError):
    """The Spark Connect server lacks the task slots for the query: no model is to blame."""


def ping(settings: Settings) -> None:
    """Raises PredictorError where the Spark Connect server does not answer within 5 s, or refuses the token."""
    import grpc
    from pyspark.sql.connect.client import DefaultChannelBuilder
    from pyspark.sql.connect.proto import ReleaseSessionRequest, SparkConnectServiceStub

    address = _address(settings)
    if not listens(settings):
        raise PredictorError(f"the Spark Connect server does not answer at {address} (FLIGHTS_SPARK_CONNECT_URL)")
    # Only a call shows whether the token is accepted. This one releases a session that does not exist, and leaves
    # nothing behind on the server.
    call = ReleaseSessionRequest(session_id=str(uuid.uuid4()), allow_reconnect=True)
    call.user_context.user_id = SPARK_USER
    with DefaultChannelBuilder(_url(settings)).toChannel() as channel:
        try:
            SparkConnectServiceStub(channel).ReleaseSession(call, timeout=5)
        except grpc.RpcError as error:
            raise PredictorError(f"the Spark Connect server at {address} says: {error.details()}") from error


def _url(settings: Settings, **parameters: str) -> str:
    """The server's address with these parameters and, for the embedded one, its token: not for messages."""
    if token := settings.spark_connect_token:
        parameters["token"] = token
    url = settings.spark_connect_url.rstrip("/;")
    url = url if "/;" in url else url + "/"
    return ";".join([url, *(f"{name}={value}" for name, value in parameters.items())])


def listens(settings: Settings) -> bool:
    """Whether somebody takes connections at the Spark Connect server's address: of a dead one, told in no time."""
    url = urlsplit(settings.spark_connect_url)
    try:
        with socket.create_connection((url.hostname, url.port or DEFAULT_PORT), timeout=5):
            return True
    except OSError:
        return False


def _address(settings: Settings) -> str:
    return urlsplit(settings.spark_connect_url).netloc  # what follows may hold a token


def await_server(settings: Settings) -> None:
    """Returns once the server answers: the process manager starts a killed one again, in 8 s or so.

    Raises PredictorError where it does not answer in time.
    """
    wanted = retry_if_exception_type(PredictorError)
    Retrying(retry=wanted, wait=wait_fixed(0.5), stop=stop_after_delay(SERVER_SECONDS), reraise=True)(ping, settings)


def start(settings: Settings, deployment: Deployment, starting_offsets: str, *, queries: int = 1) -> Deployment:
    """Starts the deployment's query; returns it with the query's ids.

    `starting_offsets` (see `handover.Start.for_spark`) are where it begins: its checkpoint is new. `queries` run side
    by side, this one included. The caller has verified the version. Raises RegistryError where the model cannot be
    loaded, SlotsError where the server is too small, PredictorError where it does not answer or Spark refuses.
    """
    log.info(
        "starting deployment %d: model %s, checkpoint %s, offsets %s",
        *(deployment.generation, deployment.version, deployment.checkpoint, starting_offsets),
    )
    with _session(settings, deployment.session_id) as spark:
        _check_slots(spark, settings, queries)
        model = _load(settings, deployment.version)
        query = start_query(spark, settings, deployment, model, starting_offsets)
        log.info("query %s, run %s started", query.id, query.runId)
        return deployment.model_copy(update={"query_id": str(query.id), "run_id": str(query.runId)})


def _check_slots(spark: SparkSession, settings: Settings, queries: int, wait_seconds: float = SLOTS_SECONDS) -> None:
    """A real-time query holds a task slot for each partition; without one it waits without an end, and says nothing.

    Only the plan of a range tells a Spark Connect client the slots. Executors may still be on their way to a cluster's
    driver; one that asks for them as it needs them has no fixed number.
    """
    if settings.trigger != "realtime" or spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        return
    partitions = len(ends(settings, REQUEST_TOPIC))
    deadline = time.monotonic() + wait_seconds
    while (splits := re.search(r"splits=(\d+)", spark.range(1)._explain_string())) is not None:
        if int(splits[1]) >= queries * partitions:
            return
        if time.monotonic() > deadline:
            raise SlotsError(
                f"the Spark Connect server at {settings.spark_connect_url} has {splits[1]} task slots, and "
                f"{queries} queries on {partitions} partitions need {queries * partitions}: set "
                f"FLIGHTS_TOPIC_PARTITIONS={partitions} and `make down up`, give a server of your own more cores, or "
                "set FLIGHTS_TRIGGER=microbatch"
            )
        time.sleep(0.5)


def _load(settings: Settings, version: str) -> PipelineModel:
    from pyspark.errors.exceptions.connect import SparkConnectGrpcException
    from pyspark.ml import PipelineModel

    try:
        return PipelineModel.load(str(registry.pipeline_path(settings.models, version)))
    except Exception as error:
        # The server went down, or came up again meanwhile and knows no session any more: not the model's fault.
        if isinstance(error, SparkConnectGrpcException) and ("UNAVAILABLE" in str(error) or "SESSION" in str(error)):
            raise
        raise RegistryError(
            f"Spark cannot load model {version} ({sentence(error)}): promote another version or train a new one"
        ) from error


@contextmanager
def _session(settings: Settings, session_id: str) -> Iterator[SparkSession]:
    """The session of that id on the Spark Connect server, new or found again; left, not ended, at the end.

    Raises PredictorError where the server does not answer or the id is burnt.
    """
    from pyspark.errors.exceptions.connect import SparkConnectException, SparkConnectGrpcException
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client.retries import DefaultPolicy

    session: Any = None
    ping(settings)
    try:
        url = _url(settings, user_id=SPARK_USER, session_id=session_id)
        session = SparkSession.builder.remote(url).create()
        session.client.set_retry_policies([DefaultPolicy(max_retries=6)])  # by default it tries for 10 minutes
        yield session
    except SparkConnectGrpcException as error:
        raise PredictorError(f"the Spark Connect server at {_address(settings)} says: {sentence(error)}") from error
    except SparkConnectException as error:
        raise PredictorError(f"Spark says: {sentence(error)}") from error
    finally:
        if session is not None:
            session.release_session_on_close = False  # the session and its query must outlive this process
            session.stop()


def unhealthy_reason(settings: Settings, deployment: Deployment) -> str | None:
    """What is wrong with the deployment's query, or None."""
    from pyspark.sql.connect.streaming.query import StreamingQuery

    gone = (
        f"the query of deployment {deployment.generation} is gone from the Spark Connect server at "
        f"{_address(settings)}; a run of the DAG flight_delay_predictor starts it again"
    )
    try:
        with _session(settings, deployment.session_id) as spark:
            query = StreamingQuery(spark, deployment.query_id, deployment.run_id, QUERY_NAME)
            # An ended query is in no list, but the server still knows what it died of.
            exception = query.exception()
            if exception is not None:
                return f"the query of deployment {deployment.generation} ended with: {sentence(exception)}"
            return None if query.isActive else gone
    except PredictorError as error:
        return gone if "STREAMING_QUERY_NOT_FOUND" in str(error) else str(error)


def stop_session(settings: Settings, session_id: str) -> None:
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
