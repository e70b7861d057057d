"""Imports the distances between airports into MongoDB; origin_dest_distances.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type"
# TaskFlow hands context arguments (params) to a task itself, and results on as XComArg.

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import Metadata, Param, dag, task

from flight_delays.contract import Collection, DagId
from flight_delays.data import distances
from flight_delays.settings import get_settings
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import AssetName, Tag, asset, default_args

DISTANCES = asset(AssetName.DISTANCES)
PAIRS = Param(None, type=["null", "string"], description="URL or path of JSON Lines; empty: the project's own file")


@dag(
    dag_id=DagId.DISTANCES.value,
    schedule=[asset(AssetName.RECORDS)],
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=1),
    default_args=default_args(execution_timeout=dt.timedelta(minutes=10)),
    params={"path_or_url": PAIRS},
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.DATA.value],
)
def origin_dest_distances() -> None:
    @task
    def download(params: dict[str, Any]) -> str:
        return str(distances.fetch_pairs(params["path_or_url"], get_settings().downloads))

    @task(outlets=[DISTANCES])
    def import_pairs(path: str) -> Iterator[Metadata]:
        pairs = distances.with_flown_pairs(distances.read_pairs(Path(path)), get_settings().records)
        with database() as db:
            yield Metadata(DISTANCES, {**distances.import_distances(db[Collection.DISTANCES], pairs)})

    import_pairs(download())


origin_dest_distances()
