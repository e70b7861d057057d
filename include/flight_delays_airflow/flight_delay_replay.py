"""Form and task of the DAG flight_delay_replay."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from flight_delays.settings import get_settings
from flight_delays_airflow.form import field, section
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import KAFKA_CONNECTION

PARAMS: Final = {
    **section(
        "Flights",
        first=field("2013-12-01", "string", "First day", "First day of departure", format="date"),
        last=field("2013-12-31", "string", "Last day", "Last day of departure", format="date"),
        limit=field(None, ["null", "integer"], "Limit", "Maximum number of flights", minimum=1),
    ),
    **section("Speed", rate=field(50, "number", "Rate", "Flights per second", exclusiveMinimum=0, maximum=1000)),
}


def replay(params: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Sends the flights and scores the answers; see replay.run. Returns the last score, without the curve."""
    from airflow.providers.apache.kafka.hooks.produce import KafkaProducerHook

    from flight_delays.answers import replay

    first, last = (dt.date.fromisoformat(params[name]) for name in ("first", "last"))
    plan = replay.Plan(first, last, params["rate"], params["limit"])

    with database() as db:
        producer = KafkaProducerHook(KAFKA_CONNECTION).get_producer()
        score = replay.run(run_id, plan, get_settings(), db, producer)
    times = {name: score[name].isoformat(timespec="seconds") for name in ("StartedAt", "UpdatedAt")}
    return {name: value for name, value in {**score, **times}.items() if name != "Curve"}
