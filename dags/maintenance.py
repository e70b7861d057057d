"""Removes what is old; maintenance.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronTriggerTimetable, dag, task

from flight_delays_airflow import maintenance as tasks
from flight_delays_airflow.names import Tag, dag_args

# With `run_immediately=False` the first unpausing may start a run at once.
NIGHTLY = CronTriggerTimetable("17 2 * * *", timezone="UTC", run_immediately=dt.timedelta(minutes=1))


@dag(
    dag_display_name="12 Maintenance",
    description="Removes what is old: answers, models, checkpoints, downloads, logs, Airflow's history",
    schedule=NIGHTLY,
    max_active_tasks=1,  # none is in a hurry, and predictions go first
    dagrun_timeout=dt.timedelta(hours=3),
    params=tasks.PARAMS,
    **dag_args(__file__, Tag.MAINTENANCE, execution_timeout=dt.timedelta(minutes=30), retries=1),
)
def maintenance() -> None:
    for job in ("answers", "replays", "rejected", "events", "models", "checkpoints", "files", "logs"):
        task(getattr(tasks, job))()
    BashOperator(
        task_id="airflow_database", bash_command=tasks.CLEAN_AIRFLOW, env=tasks.AIRFLOW_DATABASE, append_env=True
    )


maintenance()
