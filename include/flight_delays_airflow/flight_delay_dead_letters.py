"""Form and tasks of the DAG flight_delay_dead_letters; `flight_delays.answers.dead_letters` does the work."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from airflow.sdk import Param

from flight_delays.contract import Collection, Reason
from flight_delays.settings import get_settings
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import KAFKA_CONNECTION

_ACTION: Final[dict[str, Any]] = {"section": "Action"}
_CHOSEN: Final[dict[str, Any]] = {"section": "Chosen requests", "type": "array"}
_REPLAY: Final[dict[str, Any]] = {"section": "Replay"}
_TEXT: Final = {"type": "string"}
PARAMS: Final = {
    "replay": Param(
        False,
        **_ACTION,
        type="boolean",
        title="Replay",
        description="Whether to send the chosen requests, or only to report",
    ),
    "hours": Param(
        24,
        **_ACTION,
        type="number",
        exclusiveMinimum=0,
        title="Period",
        description="Hours up to now, for report and reasons",
    ),
    "reasons": Param([], **_CHOSEN, items={"enum": list(Reason)}, title="Reasons", description="Reasons of rejections"),
    "uuids": Param([], **_CHOSEN, items=_TEXT, title="UUIDs", description="UUIDs of requests"),
    "ids": Param([], **_CHOSEN, items=_TEXT, title="Document ids", description="`_id`s of rejected documents"),
    "changes": Param(
        None,
        **_REPLAY,
        type=["null", "object"],
        title="Changes",
        description='Fields for each message, e.g. {"DepDelay": 5}',
    ),
    "again": Param(
        False,
        **_REPLAY,
        type="boolean",
        title="Repetition",
        description="Whether to replay again what was replayed before",
    ),
    "limit": Param(
        1000, **_REPLAY, type="integer", minimum=1, title="Limit", description="Maximum number of messages in a replay"
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
