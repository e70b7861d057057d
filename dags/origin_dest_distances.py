"""Imports the distances between airports into MongoDB; origin_dest_distances.md beside this file explains."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import dag, task

from flight_delays_airflow import origin_dest_distances as tasks
from flight_delays_airflow.names import AssetName, Tag, asset, default_args


@dag(
    dag_display_name="03 Distances between airports",
    description="Imports the distances between airports into MongoDB",
    schedule=[asset(AssetName.RECORDS)],
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=1),
    default_args=default_args(execution_timeout=dt.timedelta(minutes=10)),
    params=tasks.PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.DATA.value],
)
def origin_dest_distances() -> None:
    task(outlets=[tasks.DISTANCES])(tasks.import_pairs)(task(tasks.download)())


origin_dest_distances()
