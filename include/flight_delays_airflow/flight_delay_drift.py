"""Form and task of the DAG flight_delay_drift."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from airflow.sdk import Param

from flight_delays.settings import get_settings
from flight_delays_airflow.mongo import database

PARAMS: Final = {
    "days": Param(
        7,
        type="number",
        exclusiveMinimum=0,
        title="Period",
        description="Period of the requests in days, up to now",
        section="Requests",
    ),
    "replay": Param(
        None,
        type=["null", "string"],
        title="Replay",
        description="Id of a replay to compare; empty: people's requests",
        section="Requests",
    ),
    "at_least": Param(
        100,
        type="integer",
        minimum=1,
        title="Minimum number of flights",
        description="Minimum number of flights for a comparison",
        section="Requests",
    ),
    "alarm": Param(
        get_settings().drift_alarm,
        type="number",
        minimum=0,
        maximum=1,
        title="Maximum distance",
        description="Distance, 0 to 1, above which the run fails; 0: no maximum",
        section="Alarm",
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
