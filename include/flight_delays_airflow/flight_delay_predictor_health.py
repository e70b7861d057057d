"""Tasks of the DAG flight_delay_predictor_health; what they find unhealthy becomes an event of the alarm asset."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.kafka.hooks.client import KafkaAdminClientHook
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.contract import REQUEST_TOPIC
from flight_delays.errors import PredictorError, sentence
from flight_delays.infra.kafka import partitions_of
from flight_delays.predictor import canary, engine
from flight_delays.predictor.probe import Part
from flight_delays.predictor.state import Wanted, read_state
from flight_delays.settings import get_settings
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import KAFKA_CONNECTION, AssetName, asset

if TYPE_CHECKING:
    from airflow.sdk.execution_time.context import OutletEventAccessor

log = logging.getLogger(__name__)


def query_is_active(alarm: OutletEventAccessor) -> dict[str, Any]:
    """Checks the query; returns `uuids`, a canary's for each partition, and `deployment`, which has to answer them.

    Empty, with an event of `alarm`, where it is unhealthy. Raises AirflowSkipException where no query is wanted.
    """
    settings = get_settings()
    with _raises(alarm, Part.QUERY):
        with database() as db:
            state = read_state(db)
        if state.serving is None or state.wanted is Wanted.STOPPED:
            raise AirflowSkipException("no predictor was deployed yet, or a person stopped it")
        if (reason := engine.unhealthy_reason(settings, state.serving)) is not None:
            raise PredictorError(reason)
        found = partitions_of(KafkaAdminClientHook(KAFKA_CONNECTION).get_conn, settings, REQUEST_TOPIC)
        return {"uuids": canary.canary_ids(len(found)), "deployment": state.serving.generation}
    return {}


def canaries_stored(alarm: OutletEventAccessor, sent: dict[str, Any]) -> float | None:
    """Seconds until the answers to the canaries were in MongoDB; None, and an event of `alarm`, where they were not."""
    with _raises(alarm, Part.STORED), database() as db:
        return canary.await_canaries(db, sent["uuids"], sent["deployment"], get_settings().canary_timeout_seconds)
    return None


@contextmanager
def _raises(alarm: OutletEventAccessor, part: Part) -> Iterator[None]:
    """Turns what is unhealthy within into an event of the alarm asset; without one, none is registered."""
    try:
        yield
    except RuntimeError as error:  # PredictorError, CanaryError, and MongoDB's errors as `database` raises them
        reason = sentence(error)
        alarm.add(asset(AssetName.ALARM), extra={"part": part.value, "reason": reason})
        log.error("unhealthy: %s; the DAG flight_delay_predictor repairs it", reason)
