"""Form and task of the DAG flight_delay_drift."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from flight_delays.settings import get_settings
from flight_delays_airflow.form import TEXT, field, section
from flight_delays_airflow.mongo import database

_ALARM: Final = "Distance (0..1) above which the run fails; 0: no maximum"
PARAMS: Final = {
    **section(
        "Requests",
        days=field(7, "number", "Period", "Days of requests, up to now", exclusiveMinimum=0),
        replay=field(None, TEXT, "Replay", "Id of a replay; empty: people's requests"),
        at_least=field(100, "integer", "Minimum", "Number of flights for a comparison", minimum=1),
    ),
    **section(
        "Alarm", alarm=field(get_settings().drift_alarm, "number", "Maximum distance", _ALARM, minimum=0, maximum=1)
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
