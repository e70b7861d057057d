"""The quality report: what it says of a month, and which months it lets nobody publish unseen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.bts import write_month
from flight_delays.data import quality, records, validation
from flight_delays.data.sources.archive import Archive
from flight_delays.data.sources.bts import Bts
from flight_delays.errors import DataError
from flight_delays.settings import Settings
from tests.flights import bts_flights
from tests.unit.test_records import days, write


def flights(month: str, count: int = 400, **changes: Any) -> pd.DataFrame:
    numbers = pd.Series(range(count))
    varied = {
        "FlightDate": pd.Timestamp(f"{month}-01") + pd.to_timedelta(numbers % 28, unit="D"),
        "Carrier": numbers.map(lambda number: ("UA", "AA")[number % 2]),
        "DepDelay": numbers % 40 - 10.0,
        "ArrDelay": numbers % 50 - 20.0,
    }
    return bts_flights(month, count, **{**varied, **changes})


def stage(settings: Settings, month: str, frame: pd.DataFrame) -> Path:
    settings.home.mkdir(exist_ok=True)
    write_month(settings.home / f"{month}.zip", frame)
    source = Bts(str(settings.home / "{year}-{month:02}.zip"), month)
    return validation.validate(source, source.fetch(settings.home), settings.records, months=month, max_bad_share=0.5)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "var")


def test_the_report_tells_a_months_figures(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flight_delays.data.quality")
    february = flights("2013-02", DepDelay=[None] + [5.0] * 399, Cancelled=[1] + [0] * 399)
    stagings = [stage(settings, "2013-02", february), stage(settings, "2013-01", flights("2013-01"))]
    first, second = quality.check_months(stagings, settings, accept=["2013-02"])
    assert first == {
        "month": "2013-01",
        "rows": 400,
        "nulls": 0,
        "duplicates": 0,
        "ranges": {"DepDelay": [-10.0, 29.0], "ArrDelay": [-20.0, 29.0], "Distance": [1400.0, 1400.0]},
        "shift": {},
        "failed": [],
        "before": None,
        "held_back": False,
    }
    assert (second["before"], second["held_back"]) == ("2013-01", False)
    assert (second["month"], second["rows"]) == ("2013-02", 399)
    # 15 of 40 departure delays of January are below 5 minutes, 24 above it
    assert second["shift"]["DepDelay"] == pytest.approx(0.6, abs=0.03)
    assert second["shift"]["Carrier"] < 0.01
    assert "2013-02: 399 flown, 1 cancelled" in caplog.text
    assert "DepDelay shifted by 0.6" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ArrDelay": 300.0}, "ArrDelay shifted by 1.00"),
        ({"Carrier": "WN"}, "Carrier shifted by 1.00"),
        ({"Dest": "SFO"}, "Dest shifted by 1.00"),
        ({"count": 100}, "at least 50% of the 400 rows"),
    ],
    ids=str,
)
def test_a_month_unlike_the_one_before_is_refused(settings: Settings, changes: dict[str, Any], message: str) -> None:
    records.publish([stage(settings, "2013-01", flights("2013-01"))], settings.records)
    before = records.read_manifest(settings.records)
    stagings = [stage(settings, "2013-02", flights("2013-02", **changes))]
    with pytest.raises(DataError, match=message):
        quality.check_months(stagings, settings)
    assert records.read_manifest(settings.records) == before
    (entry,) = quality.check_months(stagings, settings, accept=["2013-02"])
    assert message in entry["failed"][0]


CARRIERS = ["UA", "AA", "WN", "B6"]


def of_carriers(month: str, count: int) -> pd.DataFrame:
    return flights(month, Carrier=[CARRIERS[-1 - number % count] for number in range(400)])


def test_of_a_change_that_stays_one_month_is_held_back_and_can_be_accepted_alone(settings: Settings) -> None:
    """As when the reporting threshold fell from 1 % to 0.5 %: from January 2018 on there are more carriers."""
    records.publish([stage(settings, "2017-11", of_carriers("2017-11", 1))], settings.records)
    months = {"2017-12": 1, "2018-01": 4, "2018-02": 4, "2018-03": 4}
    stagings = [stage(settings, month, of_carriers(month, count)) for month, count in months.items()]
    found = quality.check_months(stagings, settings, accept=["2018-02"])
    assert [entry["before"] for entry in found] == ["2017-11", "2017-12", "2018-01", "2018-02"]
    assert [bool(entry["failed"]) for entry in found] == [False, True, False, False]
    assert [entry["held_back"] for entry in found] == [False, True, False, False]
    published = records.publish(stagings, settings.records, ["2018-01"])
    assert [month.month for month in published.months] == ["2017-11", "2017-12", "2018-02", "2018-03"]
    assert published.rows == 4 * 400
    assert all(path.is_file() for path in records.month_files(settings.records))
    with pytest.raises(DataError, match=r'1 of 4 months .*Carrier shifted.*accept_bad_months \["2018-01"\]'):
        quality.refuse_held_back(found)

    stagings = [stage(settings, "2018-01", of_carriers("2018-01", 4))]
    (entry,) = quality.check_months(stagings, settings, accept=["2018-01"])
    assert (bool(entry["failed"]), entry["held_back"]) == (True, False)
    quality.refuse_held_back([entry])
    assert [month.month for month in records.publish(stagings, settings.records).months] == ["2017-11", *months]


def test_a_single_bad_month_does_not_hold_back_the_one_after_it(settings: Settings) -> None:
    counts = {"2018-01": 1, "2018-02": 4, "2018-03": 1, "2018-04": 4}
    stagings = [stage(settings, month, of_carriers(month, count)) for month, count in counts.items()]
    found = quality.check_months(stagings, settings)
    assert [entry["before"] for entry in found] == [None, "2018-01", "2018-01", "2018-03"]
    assert [entry["held_back"] for entry in found] == [False, True, False, True]


def test_a_month_that_is_there_outlasts_a_worse_one(settings: Settings) -> None:
    for month in ("2018-01", "2018-02"):
        records.publish([stage(settings, month, of_carriers(month, 1))], settings.records)
    good = records.read_manifest(settings.records)
    staging = stage(settings, "2018-02", of_carriers("2018-02", 4))
    assert records.publish([staging], settings.records, ["2018-02"]) == good
    assert set(settings.records.glob("bts/*.parquet")) == set(records.month_files(settings.records))


def test_a_month_of_an_archive_is_held_back_alone_too(settings: Settings) -> None:
    source = write_archive(settings.home / "archive.jsonl", {"2015-01": 5.0, "2015-02": 500.0, "2015-03": 5.0})
    staging = validation.validate(source, Path(source.url), settings.records)
    found = quality.check_months([staging], settings)
    assert [entry["held_back"] for entry in found] == [False, True, False]
    manifest = records.publish([staging], settings.records, ["2015-02"])
    assert [month.month for month in manifest.months] == ["2015-01", "2015-03"]
    assert (manifest.rows, manifest.rejected) == (40, {records.HELD_BACK: 20})
    assert len(records.month_files(settings.records)) == len(list(settings.records.glob("archive/*.parquet"))) == 2


def write_archive(path: Path, delays: dict[str, float]) -> Archive:
    path.parent.mkdir(exist_ok=True)
    rows = [{**row, "ArrDelay": delay} for month, delay in delays.items() for row in days(month)]
    return write(path, rows)


def test_limits_are_settings_and_a_usual_month_passes(tmp_path: Path, settings: Settings) -> None:
    january, february = flights("2013-01"), flights("2013-02", count=300, DepDelay=[12.0] * 90 + [0.0] * 210)
    stagings = [stage(settings, "2013-01", january), stage(settings, "2013-02", february)]
    generous = settings.model_copy(update={"max_month_shift": 1.0})
    assert [entry["failed"] for entry in quality.check_months(stagings, generous)] == [[], []]
    strict = generous.model_copy(update={"min_month_rows": 0.9})
    assert "at least 90%" in quality.check_months(stagings, strict)[1]["failed"][0]


def test_another_sources_months_are_no_measure(settings: Settings) -> None:
    staging = stage(settings, "2013-02", flights("2013-02", ArrDelay=300.0))
    manifest = records.read_manifest(staging)
    assert manifest is not None
    records.publish([stage(settings, "2013-01", flights("2013-01"))], settings.records)
    other = records.read_manifest(settings.records).model_copy(update={"source": "archive"})  # type: ignore[union-attr]
    (settings.records / "manifest.json").write_text(other.model_dump_json())
    assert quality.check_months([staging], settings)[0]["shift"] == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ArrDelay": None}, "400 nulls"),
        ({"FlightNum": "7"}, r"\d+ duplicates"),
    ],
    ids=str,
)
def test_a_month_with_nulls_or_duplicates_is_refused(settings: Settings, changes: dict[str, Any], message: str) -> None:
    staging = stage(settings, "2013-01", flights("2013-01"))
    (path,) = staging.glob("bts/*.parquet")
    pd.read_parquet(path).assign(**changes).astype({"ArrDelay": float, "DepDelay": float}).to_parquet(path, index=False)
    with pytest.raises(DataError, match=message):
        quality.check_months([staging], settings)
