"""Sends a past period through the pipeline and scores the answers; see flight_delay_replay.md."""
# mypy: disable-error-code="call-arg, arg-type"

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, task

from flight_delays.contract import DagId
from flight_delays_airflow.names import Tag, default_args

DAY = {"type": "string", "format": "date"}
PARAMS = {
    "first": Param("2013-12-01", **DAY, description="First day of departure"),
    "last": Param("2013-12-31", **DAY, description="Last day of departure"),
    "rate": Param(50, type="number", exclusiveMinimum=0, maximum=1000, description="Flights per second"),
    "limit": Param(None, type=["null", "integer"], minimum=1, description="Maximum number of flights"),
}


@dag(
    dag_id=DagId.REPLAY.value,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,  # only by hand, and then at once
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(days=2),
    default_args=default_args(execution_timeout=dt.timedelta(days=1)),
    params=PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.PREDICTOR.value, Tag.QUALITY.value],
)
def flight_delay_replay() -> None:
    @task
    def replay(params: dict[str, Any], run_id: str) -> dict[str, Any]:
        from flight_delays_airflow import flight_delay_replay as tasks

        return tasks.replay(params, run_id)

    replay()


flight_delay_replay()
