"""Removes what is old; maintenance.md beside this file explains."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronTriggerTimetable, Param, dag, task

from flight_delays.contract import DagId
from flight_delays.settings import get_settings
from flight_delays_airflow import maintenance
from flight_delays_airflow.names import Tag, default_args

# With `run_immediately=False` the first unpausing may start a run at once.
NIGHTLY = CronTriggerTimetable("17 2 * * *", timezone="UTC", run_immediately=dt.timedelta(minutes=1))
SETTINGS = get_settings()


def days(default: float, of: str, **limits: Any) -> Param:
    """A form field: a retention in days."""
    return Param(default, type="number", description=f"Retention of {of} in days", **limits or {"exclusiveMinimum": 0})


PARAMS = {
    "answer_days": days(SETTINGS.answer_retention_days, "answers"),
    "replay_days": days(SETTINGS.replay_retention_days, "replays' answers"),
    "rejected_days": days(SETTINGS.rejected_retention_days, "rejected messages"),
    "event_days": days(SETTINGS.event_retention_days, "the predictor's events"),
    "models": Param(SETTINGS.models_kept, type="integer", minimum=1, description="Number of model versions to keep"),
    "checkpoint_days": days(SETTINGS.checkpoint_retention_days, "replaced deployments' checkpoints"),
    "download_days": days(SETTINGS.download_retention_days, "unused downloads"),
    "log_days": days(SETTINGS.log_retention_days, "Airflow's logs"),
    "airflow_days": days(SETTINGS.airflow_retention_days, "runs in Airflow's database", minimum=1),
    "dry_run": Param(False, type="boolean", description="Whether to count only, and remove nothing"),
}


@dag(
    dag_id=DagId.MAINTENANCE.value,
    schedule=NIGHTLY,
    catchup=False,
    max_active_runs=1,
    max_active_tasks=1,  # none is in a hurry, and predictions go first
    dagrun_timeout=dt.timedelta(hours=3),
    default_args=default_args(execution_timeout=dt.timedelta(minutes=30), retries=1),
    params=PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.MAINTENANCE.value],
)
def build() -> None:
    for job in ("answers", "replays", "rejected", "events", "models", "checkpoints", "files", "logs"):
        task(getattr(maintenance, job))()
    BashOperator(
        task_id="airflow_database",
        bash_command=maintenance.CLEAN_AIRFLOW,
        env=maintenance.AIRFLOW_DATABASE,
        append_env=True,
    )


build()
