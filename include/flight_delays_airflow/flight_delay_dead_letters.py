"""Form and tasks of the DAG flight_delay_dead_letters; `flight_delays.answers.dead_letters` does the work."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from flight_delays.contract import Collection, Reason
from flight_delays.settings import get_settings
from flight_delays_airflow.form import field, section
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import KAFKA_CONNECTION

PARAMS: Final = {
    **section(
        "Action",
        replay=field(False, "boolean", "Replay", "Whether to send the chosen requests, or only to report"),
        hours=field(24, "number", "Period", "Hours up to now, for report and reasons", exclusiveMinimum=0),
    ),
    **section(
        "Chosen requests",
        reasons=field([], "array", "Reasons", "Reasons of rejections", items={"enum": list(Reason)}),
        uuids=field([], "array", "UUIDs", "UUIDs of requests", items={"type": "string"}),
        ids=field([], "array", "Document ids", "`_id`s of rejected documents", items={"type": "string"}),
    ),
    **section(
        "Replay",
        changes=field(None, ["null", "object"], "Changes", 'Fields for each message, e.g. {"DepDelay": 5}'),
        again=field(False, "boolean", "Repetition", "Whether to replay again what was replayed before"),
        limit=field(1000, "integer", "Limit", "Maximum number of messages in a replay", minimum=1),
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
    from airflow.providers.apache.kafka.hooks.produce import KafkaProducerHook

    from flight_delays.answers import dead_letters

    with database() as db:
        documents = db[Collection.REJECTED]
        filters = {name: params[name] for name in ("reasons", "uuids", "ids", "limit")}
        chosen = dead_letters.choose(documents, since=_since(params), **filters)
        producer = KafkaProducerHook(KAFKA_CONNECTION).get_producer()
        options = {name: params[name] for name in ("changes", "again")}
        return dead_letters.replay(documents, chosen, get_settings(), producer, **options)


def _since(params: Mapping[str, Any]) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(hours=params["hours"])
