"""Tasks of the DAG flight_delay_drift."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from flight_delays.settings import get_settings
from flight_delays_airflow.mongo import database


def drift(params: Mapping[str, Any]) -> dict[str, Any]:
    """Compares what was asked with the training data; see drift.report."""
    from flight_delays.answers import drift

    settings = get_settings()
    since = dt.datetime.now(dt.UTC) - dt.timedelta(days=params["days"])
    options = {name: params[name] for name in ("replay", "at_least", "alarm")}
    with database() as db:
        return drift.report(db, settings.models, settings.records, since=since, **options)
