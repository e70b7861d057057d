"""Form and tasks of the DAG flight_delay_dead_letters; `flight_delays.answers.dead_letters` does the work."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from airflow.sdk import Param

from flight_delays.contract import REQUEST_TOPIC, Collection, Reason
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import KAFKA_CANARY_CONNECTION, KAFKA_CONNECTION

_TEXTS: Final[dict[str, Any]] = {"type": "array", "items": {"type": "string"}, "section": "Chosen requests"}
PARAMS: Final = {
    "replay": Param(
        False,
        type="boolean",
        title="Replay",
        description="Whether to send the chosen requests again, or only to report",
        section="Action",
    ),
    "hours": Param(
        24,
        type="number",
        exclusiveMinimum=0,
        title="Period",
        description="Period of the report, and of the reasons chosen, in hours up to now",
        section="Action",
    ),
    "reasons": Param(
        [],
        type="array",
        items={"enum": [reason.value for reason in Reason]},
        title="Reasons",
        description="Reasons of the requests to replay",
        section="Chosen requests",
    ),
    "uuids": Param([], **_TEXTS, title="UUIDs", description="UUIDs of the requests to replay"),
    "ids": Param([], **_TEXTS, title="Document ids", description="`_id`s of the documents to replay"),
    "changes": Param(
        None,
        type=["null", "object"],
        title="Changes",
        description='Fields merged into each message, e.g. {"DepDelay": 5}',
        section="Replay",
    ),
    "again": Param(
        False,
        type="boolean",
        title="Repetition",
        description="Whether to replay again what was replayed before",
        section="Replay",
    ),
    "limit": Param(
        1000,
        type="integer",
        minimum=1,
        title="Maximum number of messages",
        description="Number of messages above which nothing is replayed",
        section="Replay",
    ),
}


def report(params: Mapping[str, Any]) -> dict[str, Any]:
    """What was rejected in the last `hours`; see dead_letters.report."""
    from flight_delays.answers import dead_letters

    with database() as db:
        documents = db[Collection.REJECTED]
        return dead_letters.report(documents, _since(params))


def replay_is_set(params: Mapping[str, Any]) -> bool:
    """Whether a person asked for more than the report."""
    return bool(params["replay"])


def replay(params: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the chosen requests back on their topic; see dead_letters.replay."""
    from airflow.providers.apache.kafka.hooks.consume import KafkaConsumerHook
    from airflow.providers.apache.kafka.hooks.produce import KafkaProducerHook

    from flight_delays.answers import dead_letters

    with database() as db:
        documents = db[Collection.REJECTED]
        filters = {name: params[name] for name in ("reasons", "uuids", "ids", "limit")}
        chosen = dead_letters.choose(documents, since=_since(params), **filters)
        # Not get_consumer(): that would join the connection's group. This one reads at places of its own.
        consumer = KafkaConsumerHook([REQUEST_TOPIC], KAFKA_CANARY_CONNECTION).get_conn
        try:
            producer = KafkaProducerHook(KAFKA_CONNECTION).get_producer()
            options = {name: params[name] for name in ("changes", "again")}
            return dead_letters.replay(documents, chosen, consumer, producer, **options)
        finally:
            consumer.close()


def _since(params: Mapping[str, Any]) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(hours=params["hours"])
