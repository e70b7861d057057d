"""Downloads, validates and publishes flight records; flight_records.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import TriggerRule, dag, task

from flight_delays.data import quality
from flight_delays_airflow import flight_records as tasks
from flight_delays_airflow.names import Tag, dag_args

EVEN_SKIPPED = TriggerRule.NONE_FAILED  # a month that is not published yet


@dag(
    dag_display_name="01 Flight records",
    description="Downloads, validates and publishes flights as Parquet files by month",
    schedule=None,
    dagrun_timeout=dt.timedelta(hours=12),
    params=tasks.PARAMS,
    **dag_args(__file__, Tag.DATA, execution_timeout=dt.timedelta(hours=2)),
)
def flight_records() -> None:
    download = task(max_active_tis_per_dag=2)(tasks.download)
    validate = task(max_active_tis_per_dag=2, trigger_rule=EVEN_SKIPPED)(tasks.validate)
    check = task(trigger_rule=EVEN_SKIPPED)(tasks.check)
    publish = task(trigger_rule=EVEN_SKIPPED)(tasks.publish)
    held_back = task(task_id="held_back")(quality.refuse_held_back)  # fails the run, not the other months
    announce = task(inlets=[tasks.RECORDS], outlets=[tasks.RECORDS])(tasks.announce)

    stagings = validate.expand(file=download.expand(file=task(tasks.plan)()))
    published = publish(stagings, report := check(stagings))
    announce(published)
    published >> held_back(report)


flight_records()
