"""Reports whether what is asked still looks like the training data; flight_delay_drift.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type"

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, task

from flight_delays.contract import DagId
from flight_delays.settings import get_settings
from flight_delays_airflow.names import Tag, default_args

PARAMS = {
    "days": Param(7, type="number", exclusiveMinimum=0, description="Period of the requests in days, up to now"),
    "replay": Param(None, type=["null", "string"], description="Id of a replay to compare; empty: people's requests"),
    "at_least": Param(100, type="integer", minimum=1, description="Minimum number of flights for a comparison"),
    "alarm": Param(
        get_settings().drift_alarm,
        type="number",
        minimum=0,
        maximum=1,
        description="Maximum distance; above it the run fails; 0: no maximum",
    ),
}


@dag(
    dag_id=DagId.DRIFT.value,
    schedule="@daily",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=1),
    default_args=default_args(),
    params=PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.PREDICTOR.value, Tag.QUALITY.value],
)
def flight_delay_drift() -> None:
    @task
    def drift(params: dict[str, Any]) -> dict[str, Any]:
        from flight_delays_airflow import flight_delay_drift as tasks

        return tasks.drift(params)

    drift()


flight_delay_drift()
