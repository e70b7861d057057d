"""Fetches the months that the Bureau has published since; flight_records_newest_month.md beside this file explains."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronTriggerTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.contract import DagId
from flight_delays.data import records
from flight_delays.data.sources import SourceName
from flight_delays_airflow.names import Tag, default_args

# A month appears on no fixed day. With `run_immediately=False` the first unpausing may start a run at once.
WEEKLY = CronTriggerTimetable("30 5 * * 2", timezone="UTC", run_immediately=dt.timedelta(minutes=1))


@dag(
    dag_id=DagId.NEWEST_MONTH.value,
    schedule=WEEKLY,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=1),
    default_args=default_args(),
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.DATA.value],
)
def flight_records_newest_month() -> None:
    @task
    def missing() -> str:
        months = records.months_since(dt.datetime.now(dt.UTC).date())
        if not months:
            raise AirflowSkipException("no month of the Bureau's is published here, or none has ended since the last")
        return months

    TriggerDagRunOperator(
        task_id="fetch",
        trigger_dag_id=DagId.RECORDS.value,
        conf={"source": SourceName.BTS.value, "months": missing()},
    )


flight_records_newest_month()
