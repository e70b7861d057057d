"""Imports the distances between airports into MongoDB; origin_dest_distances.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import dag, task

from flight_delays_airflow import origin_dest_distances as tasks
from flight_delays_airflow.names import AssetName, Tag, asset, dag_args


@dag(
    dag_display_name="03 Distances between airports",
    description="Imports the distances between airports into MongoDB",
    schedule=[asset(AssetName.RECORDS)],
    dagrun_timeout=dt.timedelta(hours=1),
    params=tasks.PARAMS,
    **dag_args(__file__, Tag.DATA, execution_timeout=dt.timedelta(minutes=10)),
)
def origin_dest_distances() -> None:
    task(outlets=[tasks.DISTANCES])(tasks.import_pairs)(task(tasks.download)())


origin_dest_distances()
