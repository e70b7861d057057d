"""The weather file and its faults, and what becomes of flight records."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import parquet

from flight_delays.contract import DepartureConditions
from flight_delays.data.conditions import (
    WEATHER,
    WEATHER_COLUMNS,
    fetch_weather,
    flight_documents,
    publish_weather,
    read_weather,
    weather_documents,
)
from flight_delays.errors import DataError

HEAD = ["origin", "year", "month", "day", "hour", *WEATHER_COLUMNS]
ROW = ["EWR", "2013", "12", "20", "9", "39.02", "59.37", "270", "10.35702", "NA", "0", "1012", "10"]


def written(tmp_path: Path, *rows: list[str], head: list[str] = HEAD) -> Path:
    path = tmp_path / "weather.csv"
    path.write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")
    return path


def changed(**cells: str) -> list[str]:
    return [cells.get(name, cell) for name, cell in zip(HEAD, ROW, strict=True)]


def test_the_packages_weather_is_that_of_a_year_at_three_airports(tmp_path: Path) -> None:
    rows = read_weather(fetch_weather(None, tmp_path))
    assert len(rows) == 26_112  # of 26,115: at each airport the hour that the clock repeats stands there twice
    assert set(rows["Origin"]) == {"EWR", "JFK", "LGA"}
    assert rows["OriginWindSpeed"].max() < 60, "the file has 1,048 mph"
    assert rows["OriginTemperature"].notna().mean() > 0.99
    documents = {document["_id"]: document for document in weather_documents(rows)}
    assert len(documents) == 3 * 364
    assert documents["weather/EWR/2013-07-01"]["OriginVisibility"][9] == 1.5
    assert documents["weather/EWR/2013-07-01"]["OriginPressure"][9] is None
    assert documents["weather/EWR/2013-11-03"]["OriginTemperature"][1] == 51.98, "the first of the two"
    for document in documents.values():
        for hour in range(24):
            DepartureConditions(**{name: document[name][hour] for name in WEATHER})


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"origin": ""}, "line 3, origin;"),
        ({"origin": "Newark"}, "line 3, origin;"),
        ({"month": "13"}, "line 3, date;"),
        ({"day": "NA"}, "line 3, date;"),
        ({"hour": "24"}, "line 3, hour;"),
        ({"hour": "9.5"}, "line 3, hour;"),
    ],
)
def test_a_row_without_its_place_in_time_is_named(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_weather(written(tmp_path, ROW, changed(**cells)))


def test_what_is_no_weather_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        read_weather(written(tmp_path))
    with pytest.raises(DataError, match="precip"):
        read_weather(written(tmp_path, head=[name for name in HEAD if name != "precip"]))
    with pytest.raises(DataError, match="cannot be read"):
        read_weather(tmp_path / "nothing.csv")


def test_a_row_with_more_cells_than_the_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected 14 columns, got 15"):
        read_weather(written(tmp_path, [*ROW, "2013-12-20", ""], head=[*HEAD, "time_hour"]))


def test_an_impossible_value_is_unknown_and_the_others_stay(tmp_path: Path) -> None:
    path = written(tmp_path, changed(temp="999", humid="-1", wind_dir="x", wind_speed="inf", visib=""))
    [row] = read_weather(path).to_dict("records")
    assert {name for name in WEATHER if pd.notna(row[name])} == {"OriginPrecipitation", "OriginPressure"}


def test_a_second_import_adds_hours_and_replaces_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "weather"
    publish_weather(read_weather(written(tmp_path, ROW, changed(hour="10"))), folder)
    rows = publish_weather(
        read_weather(written(tmp_path, changed(temp="50"), changed(hour="11", origin="JFK"))), folder
    )
    [file] = folder.iterdir()
    table = parquet.read_table(file)
    assert table.num_rows == len(rows) == 3
    assert [str(table.schema.field(name).type) for name in ("Origin", "Date", "Hour")] == [
        "string",
        "date32[day]",
        "int32",
    ]
    assert table.to_pydict()["OriginTemperature"] == [50.0, 39.02, 39.02]
    assert len(list(weather_documents(rows))) == 2, "a day's document has the hours of both imports"


def flights(path: Path, *rows: dict[str, Any]) -> Path:
    flight = {"Carrier": "UA", "FlightNum": "1", "Origin": "EWR", "Dest": "SFO", "CRSDepTime": "0900"}
    flight |= {"CRSArrTime": "1200", "FlightDate": dt.date(2013, 12, 1), "DepDelay": 0.0, "ArrDelay": 0.0}
    pd.DataFrame([flight | row for row in rows]).to_parquet(path)
    return path


def test_gains_are_by_day_and_scheduled_times_the_latest(tmp_path: Path) -> None:
    november = flights(tmp_path / "11", {"FlightDate": dt.date(2013, 11, 30), "ArrDelay": 9.0, "CRSDepTime": "0800"})
    december = flights(
        tmp_path / "12",
        {"DepDelay": 10.0, "ArrDelay": -5.0},
        {"FlightNum": "002", "DepDelay": 0.0, "ArrDelay": 5.0},
        {"FlightNum": "3", "DepDelay": -1440.0, "ArrDelay": 4320.0},
        {"FlightDate": dt.date(2013, 12, 2), "CRSDepTime": "0905", "CRSArrTime": "1210"},
    )
    documents = {document.pop("_id"): document for document in flight_documents([november, december])}
    assert documents.pop("gain/SFO/2013-11-30") == {"sum": 9.0, "count": 1}
    assert documents.pop("gain/SFO/2013-12-01") == {"sum": -10.0, "count": 2}, "without the one that is impossible"
    assert documents.pop("gain/SFO/2013-12-02") == {"sum": 0.0, "count": 1}
    assert documents.pop("schedule/UA/1/EWR/SFO") == {"CRSDepTime": "0905", "CRSArrTime": "1210"}
    assert set(documents) == {"schedule/UA/2/EWR/SFO", "schedule/UA/3/EWR/SFO"}
