"""Fetches the months that the Bureau has published since; flight_records_newest_month.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronTriggerTimetable, dag, task

from flight_delays.contract import DagId
from flight_delays.data.sources import SourceName
from flight_delays_airflow import flight_records_newest_month as tasks
from flight_delays_airflow.names import Tag, dag_args

# A month appears on no fixed day. With `run_immediately=False` the first unpausing may start a run at once.
WEEKLY = CronTriggerTimetable("30 5 * * 2", timezone="UTC", run_immediately=dt.timedelta(minutes=1))


@dag(
    dag_display_name="02 Newest month of flight records",
    description="Fetches the months that the Bureau of Transportation Statistics has published since the last one here",
    schedule=WEEKLY,
    dagrun_timeout=dt.timedelta(hours=1),
    **dag_args(__file__, Tag.DATA),
)
def flight_records_newest_month() -> None:
    TriggerDagRunOperator(
        task_id="fetch",
        trigger_dag_id=DagId.RECORDS.value,
        conf={"source": SourceName.BTS.value, "months": task(tasks.missing)()},
    )


flight_records_newest_month()
