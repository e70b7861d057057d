"""Reports rejected requests, and replays chosen ones; flight_delay_dead_letters.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type"

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, task

from flight_delays.contract import DagId, Reason
from flight_delays_airflow.names import Tag, default_args

TEXTS = {"type": "array", "items": {"type": "string"}}
PARAMS = {
    "hours": Param(
        24, type="number", exclusiveMinimum=0, description="Period of the report, and of `reasons`, in hours, up to now"
    ),
    "replay": Param(False, type="boolean", description="Whether to send the chosen requests again, or only to report"),
    "reasons": Param([], type="array", items={"enum": list(Reason)}, description="Reasons of the requests to replay"),
    "uuids": Param([], **TEXTS, description="UUIDs of the requests to replay"),
    "ids": Param([], **TEXTS, description="`_id`s of the documents to replay"),
    "changes": Param(
        None, type=["null", "object"], description='Fields merged into each message, e.g. {"DepDelay": 5}'
    ),
    "again": Param(False, type="boolean", description="Whether to replay again what was replayed before"),
    "limit": Param(1000, type="integer", minimum=1, description="Maximum number of messages in a replay"),
}


@dag(
    dag_id=DagId.DEAD_LETTERS.value,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,  # only by hand, and then at once
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=2),
    default_args=default_args(),
    params=PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.PREDICTOR.value, Tag.DEAD_LETTERS.value],
)
def flight_delay_dead_letters() -> None:
    @task
    def report(params: dict[str, Any]) -> dict[str, Any]:
        from flight_delays_airflow import flight_delay_dead_letters as tasks

        return tasks.report(params)

    @task.short_circuit
    def replay_is_set(params: dict[str, Any]) -> bool:
        return bool(params["replay"])

    @task
    def replay(params: dict[str, Any]) -> dict[str, Any]:
        from flight_delays_airflow import flight_delay_dead_letters as tasks

        return tasks.replay(params)

    report() >> replay_is_set() >> replay()


flight_delay_dead_letters()
