"""Imports what is known at a flight's departure into MongoDB; departure_conditions.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag, task

from flight_delays_airflow import departure_conditions as tasks
from flight_delays_airflow.names import AssetName, Tag, asset, dag_args


@dag(
    dag_display_name="04 Departure conditions",
    description="Imports what is known at departure into MongoDB: weather, scheduled times, recent gains of time",
    schedule=[asset(AssetName.RECORDS)],
    dagrun_timeout=dt.timedelta(hours=2),
    params=tasks.PARAMS,
    **dag_args(__file__, Tag.DATA, execution_timeout=dt.timedelta(minutes=30)),
)
def departure_conditions() -> None:
    announce = task(outlets=[tasks.CONDITIONS])(tasks.announce)
    announce(task(tasks.import_weather)(), task(tasks.import_flights)())


departure_conditions()
