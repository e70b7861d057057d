"""What counts as a valid request, at its edges."""

from __future__ import annotations

import datetime as dt
import json
import math
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from flight_delays.contract import BLANKS, DepartureConditions, Request, date_parts, is_uuid, read_request

VALID: dict[str, Any] = {
    "UUID": "0B0AA9AE-3E0C-4D29-9E8E-6B0C3D1D9A11",
    "Timestamp": "2026-01-31T23:59:59.123456Z",
    "Carrier": "AA",
    "FlightDate": "2016-12-25",
    "FlightNum": "1519",
    "Origin": "ATL",
    "Dest": "SFO",
    "DepDelay": 5,
    "Distance": 2139.0,
}


def parse(**changes: Any) -> Request:
    return Request.model_validate_json(json.dumps(VALID | changes))


def test_the_original_example_is_valid_and_its_uuid_lower_case() -> None:
    assert VALID["UUID"].lower() == parse().UUID


def test_unknown_fields_and_stale_date_parts_are_ignored() -> None:
    assert parse(DayOfWeek=0, DayOfYear="x", Tail="N123").FlightDate == "2016-12-25"


def test_conditions_are_optional_and_an_integer_is_a_number() -> None:
    assert parse().model_dump(include=set(DepartureConditions.model_fields), exclude_none=True) == {}
    known = {"CRSDepTime": "0905", "OriginTemperature": 39, "DestGain7Days": -4.5, "OriginWindGust": None}
    assert parse(**known).model_dump(include=set(known)) == known


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("DepDelay", "5"),
        ("DepDelay", True),
        ("DepDelay", math.nan),
        ("DepDelay", math.inf),
        ("DepDelay", 1e9),
        ("Distance", 0),
        ("Distance", "2139"),
        ("FlightDate", "2016-13-45"),
        ("FlightDate", "25/12/2016"),
        ("FlightDate", "0001-01-01"),
        ("FlightDate", "2015-02-29"),
        ("FlightNum", 1519),
        ("FlightNum", "fifteen"),
        ("Carrier", "aa"),
        ("Carrier", "AA\n"),
        ("Origin", "ATLANTA"),
        ("Dest", "ATL"),
        ("Timestamp", "yesterday"),
        ("Timestamp", "2026-02-30T00:00:00Z"),
        ("UUID", "not-a-uuid"),
        ("CRSDepTime", "2460"),
        ("CRSDepTime", 930),
        ("Canary", "true"),
        ("CRSArrTime", "9:30"),
        ("OriginTemperature", "39"),
        ("OriginTemperature", 151),
        ("OriginHumidity", -0.1),
        ("OriginWindDirection", 361),
        ("OriginWindGust", math.nan),
        ("OriginPressure", 0),
        ("DestGainYesterday", 1441),
        ("DestGain7Days", True),
        ("Replay", ""),
        ("Replay", "a b"),
        ("Replay", "x\n"),
        ("Replay", "x" * 251),
    ],
)
def test_a_wrong_value_is_an_error_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(**{field: value})
    [error] = caught.value.errors()
    assert error["loc"] == ((field,) if field != "Dest" else ())


def read(**changes: Any) -> dict[str, Any]:
    return read_request(json.dumps(VALID | changes).encode()).model_dump()


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        (1519, "1519"),
        ("01284", "1284"),
        ("000", "0"),
        (0, "0"),
        (" 12a\n", "12A"),
        (None, None),
        ("", None),
        (" ", None),
    ],
)
def test_a_flight_number_is_read_as_it_is_meant(given: Any, read_as: str | None) -> None:
    assert read(FlightNum=given)["FlightNum"] == read_as


@pytest.mark.parametrize(
    "given", [1519.5, 1519.0, True, -5, 100_000, 10**500, [], "12 34", "UA1519", "\uff11", "1519.0"]
)
def test_what_is_no_flight_number_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="FlightNum"):
        read(FlightNum=given)


def test_codes_may_be_lower_case_with_blanks_around_and_a_flight_number_absent() -> None:
    value = {name: each for name, each in VALID.items() if name != "FlightNum"}
    found = read_request(json.dumps(value | {"Carrier": " aa", "Origin": "atl", "Dest": "\xa0Sfo\n"}).encode())
    assert (found.Carrier, found.Origin, found.Dest, found.FlightNum) == ("AA", "ATL", "SFO", None)


@pytest.mark.parametrize("given", ["", " \n", None])
def test_a_blank_uuid_is_that_of_the_key(given: str | None) -> None:
    key = str(VALID["UUID"]).lower()
    assert key == read_request(json.dumps(VALID | {"UUID": given}).encode(), key.encode()).UUID


def test_blanks_are_all_that_strip_removes() -> None:
    assert set(BLANKS) == {each for each in map(chr, range(sys.maxunicode + 1)) if not each.strip()}


def test_uuids_are_recognised_in_their_usual_form_only() -> None:
    assert is_uuid(VALID["UUID"])
    for other in ("", "x", VALID["UUID"] + "\n", VALID["UUID"].replace("-", ""), "{" + VALID["UUID"] + "}"):
        assert not is_uuid(other)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (dt.date(2013, 1, 1), (1, 1, 2)),  # a Tuesday
        (dt.date(2016, 12, 25), (360, 25, 7)),  # a Sunday in a leap year; the original served it as 0 or 6
        (dt.date(2016, 2, 29), (60, 29, 1)),  # a Monday
        (dt.date(2015, 12, 31), (365, 31, 4)),
        (dt.date(2016, 12, 31), (366, 31, 6)),
    ],
)
def test_date_parts(day: dt.date, expected: tuple[int, int, int]) -> None:
    assert date_parts(day) == expected


def test_a_week_is_one_to_seven() -> None:
    monday = dt.date(2013, 7, 1)
    assert [date_parts(monday + dt.timedelta(days)).DayOfWeek for days in range(7)] == [1, 2, 3, 4, 5, 6, 7]
