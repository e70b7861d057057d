"""Reports whether what is asked still looks like the training data; flight_delay_drift.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag, task

from flight_delays_airflow import flight_delay_drift as tasks
from flight_delays_airflow.names import Tag, dag_args


@dag(
    dag_display_name="11 Drift",
    description="Measures how far the requests of the last days are from the training data",
    schedule="@daily",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    is_paused_upon_creation=False,
    dagrun_timeout=dt.timedelta(hours=1),
    params=tasks.PARAMS,
    **dag_args(__file__, Tag.PREDICTOR, Tag.QUALITY),
)
def flight_delay_drift() -> None:
    task(tasks.drift)()


flight_delay_drift()
