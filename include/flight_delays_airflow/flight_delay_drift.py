"""Form and task of the DAG flight_delay_drift."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from airflow.sdk import Param

from flight_delays.settings import get_settings
from flight_delays_airflow.mongo import database

_REQUESTS: Final[dict[str, Any]] = {"section": "Requests"}
PARAMS: Final = {
    "days": Param(
        7, **_REQUESTS, type="number", exclusiveMinimum=0, title="Period", description="Days of requests, up to now"
    ),
    "replay": Param(
        None,
        **_REQUESTS,
        type=["null", "string"],
        title="Replay",
        description="Id of a replay; empty: people's requests",
    ),
    "at_least": Param(
        100, **_REQUESTS, type="integer", minimum=1, title="Minimum", description="Number of flights for a comparison"
    ),
    "alarm": Param(
        get_settings().drift_alarm,
        type="number",
        minimum=0,
        maximum=1,
        section="Alarm",
        title="Maximum distance",
        description="Distance (0..1) above which the run fails; 0: no maximum",
    ),
}


def drift(params: Mapping[str, Any]) -> dict[str, Any]:
    """Compares what was asked with the training data; see drift.report."""
    from flight_delays.answers import drift

    settings = get_settings()
    since = dt.datetime.now(dt.UTC) - dt.timedelta(days=params["days"])
    options = {name: params[name] for name in ("replay", "at_least", "alarm")}
    with database() as db:
        return drift.report(db, settings.models, settings.records, since=since, **options)
