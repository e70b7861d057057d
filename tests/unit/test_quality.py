"""The quality report: what it says of a month, and which months it lets nobody publish unseen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.bts import write_month
from flight_delays import quality, records
from flight_delays.settings import Settings
from flight_delays.sources import DataError
from flight_delays.sources.bts import Bts


def flights(month: str, count: int = 400, **changes: Any) -> pd.DataFrame:
    numbers = pd.Series(range(count))
    columns = {
        "FlightDate": pd.Timestamp(f"{month}-01") + pd.to_timedelta(numbers % 28, unit="D"),
        "FlightNum": numbers + 1,
        "Carrier": numbers.map(lambda number: ("UA", "AA")[number % 2]),
        "Origin": "EWR",
        "Dest": "IAH",
        "CRSDepTime": "0515",
        "CRSArrTime": "0819",
        "DepDelay": numbers % 40 - 10.0,
        "ArrDelay": numbers % 50 - 20.0,
        "Distance": 1400.0,
        "Cancelled": 0,
        "Diverted": 0,
    }
    return pd.DataFrame({**columns, **changes})


def stage(settings: Settings, month: str, frame: pd.DataFrame) -> Path:
    settings.home.mkdir(exist_ok=True)
    write_month(settings.home / f"{month}.zip", frame)
    source = Bts(str(settings.home / "{year}-{month:02}.zip"), month)
    return records.validate(source, source.fetch(settings.home), settings.records, months=month, max_bad_share=0.5)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "var")


def test_the_report_tells_a_months_figures(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flight_delays.quality")
    february = flights("2013-02", DepDelay=[None] + [5.0] * 399, Cancelled=[1] + [0] * 399)
    stagings = [stage(settings, "2013-02", february), stage(settings, "2013-01", flights("2013-01"))]
    first, second = quality.report(stagings, settings, accept=True)
    assert first == {
        "month": "2013-01",
        "rows": 400,
        "nulls": 0,
        "duplicates": 0,
        "ranges": {"DepDelay": [-10.0, 29.0], "ArrDelay": [-20.0, 29.0], "Distance": [1400.0, 1400.0]},
        "shift": {},
        "failed": [],
    }
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
        quality.report(stagings, settings)
    assert records.read_manifest(settings.records) == before
    (entry,) = quality.report(stagings, settings, accept=True)
    assert message in entry["failed"][0]


def test_limits_are_settings_and_a_usual_month_passes(tmp_path: Path, settings: Settings) -> None:
    january, february = flights("2013-01"), flights("2013-02", count=300, DepDelay=[12.0] * 90 + [0.0] * 210)
    stagings = [stage(settings, "2013-01", january), stage(settings, "2013-02", february)]
    generous = settings.model_copy(update={"max_month_shift": 1.0})
    assert [entry["failed"] for entry in quality.report(stagings, generous)] == [[], []]
    strict = generous.model_copy(update={"min_month_rows": 0.9})
    with pytest.raises(DataError, match="at least 90%"):
        quality.report(stagings, strict)


def test_another_sources_months_are_no_measure(settings: Settings) -> None:
    staging = stage(settings, "2013-02", flights("2013-02", ArrDelay=300.0))
    manifest = records.read_manifest(staging)
    assert manifest is not None
    records.publish([stage(settings, "2013-01", flights("2013-01"))], settings.records)
    other = records.read_manifest(settings.records).model_copy(update={"source": "archive"})  # type: ignore[union-attr]
    (settings.records / "manifest.json").write_text(other.model_dump_json())
    assert quality.report([staging], settings)[0]["shift"] == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DepDelay": 1e6}, "DepDelay: in_range"),
        ({"ArrDelay": None}, "ArrDelay: not_nullable"),
        ({"Carrier": "ua!"}, "Carrier: matches"),
        ({"FlightNum": "7"}, "field_uniqueness|multiple_fields_uniqueness|unique"),
    ],
    ids=str,
)
def test_what_validation_should_have_kept_out_does_not_pass_here_either(
    settings: Settings, changes: dict[str, Any], message: str
) -> None:
    staging = stage(settings, "2013-01", flights("2013-01"))
    (path,) = staging.glob("bts/*.parquet")
    pd.read_parquet(path).assign(**changes).astype({"ArrDelay": float, "DepDelay": float}).to_parquet(path, index=False)
    with pytest.raises(DataError, match=message):
        quality.report([staging], settings)
