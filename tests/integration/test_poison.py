"""Poison straight onto the request topic of the running line: it becomes dead letters, and the stream goes on.

`test_messages.py` puts thousands of generated messages through the same functions in batch.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from flight_delays.contract import (
    DEAD_LETTER_TOPIC,
    MAX_BRACKETS,
    MAX_KEY_BYTES,
    MAX_MESSAGE_BYTES,
    PAYLOAD_BYTES,
    REQUEST_TOPIC,
    Collection,
    Reason,
    parse_timestamp,
    rejected_id,
)
from flight_delays.infra import mongo
from tests.conftest import Stack
from tests.integration.line import answer, flight, messages_on, put, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

Build = Callable[[str], bytes | None]
READABLE = "readable"


def raw(value: bytes | None) -> Build:
    """The same bytes whatever the UUID, which then is the key alone."""
    return lambda _: value


def fields(**changes: Any) -> Build:
    """A flight with these fields."""
    return lambda uuid: json.dumps(flight(UUID=uuid) | changes).encode()


def without(name: str) -> Build:
    return lambda uuid: json.dumps({k: v for k, v in flight(UUID=uuid).items() if k != name}).encode()


def text(change: Callable[[str], str], encoding: str = "utf-8") -> Build:
    """A flight's JSON, changed as text."""
    return lambda uuid: change(json.dumps(flight(UUID=uuid))).encode(encoding)


def swap(old: str, new: str) -> Build:
    def change(found: str) -> str:
        assert old in found
        return found.replace(old, new)

    return text(change)


def extra(member: str) -> Build:
    """A flight with one more member, as text."""
    return text(lambda found: f"{found[:-1]}, {member}}}")


def delay(number: str) -> Build:
    return swap('"DepDelay": 5.0', f'"DepDelay": {number}')


def padded(size: int) -> Build:
    return text(lambda found: found.ljust(size))


@dataclass(frozen=True)
class Poison:
    """A message, and how it must be rejected. The key is the UUID, where it is not another."""

    build: Build
    reason: Reason
    field: str | None = None
    key: bytes | str | None = READABLE
    uuid_is_readable: bool = True


POISON = {
    # nothing, or no JSON
    "tombstone": Poison(raw(None), Reason.EMPTY),
    "tombstone without a key": Poison(raw(None), Reason.EMPTY, key=None, uuid_is_readable=False),
    "empty value": Poison(raw(b""), Reason.EMPTY),
    "empty value, empty key": Poison(raw(b""), Reason.EMPTY, key=b"", uuid_is_readable=False),
    "white space": Poison(raw(b" \n"), Reason.MALFORMED_JSON),
    "open brace": Poison(raw(b"{"), Reason.MALFORMED_JSON),
    "cut in the middle": Poison(text(lambda found: found[:-30]), Reason.MALFORMED_JSON),
    "truncated UTF-8": Poison(raw(b'{"Carrier": "\xe2\x82'), Reason.INVALID_UTF8),
    "truncated UTF-8 after the UUID": Poison(
        lambda uuid: b'{"UUID": "%s", "Carrier": "\xe2' % uuid.encode(), Reason.INVALID_UTF8, key=None
    ),
    "surrogates in UTF-8": Poison(raw(b'{"Carrier": "\xed\xa0\x80"}'), Reason.INVALID_UTF8),
    "overlong UTF-8": Poison(raw(b'{"Carrier": "\xc0\x80"}'), Reason.INVALID_UTF8),
    "byte order mark": Poison(text(lambda found: "\ufeff" + found), Reason.MALFORMED_JSON),
    "UTF-16": Poison(text(str, "utf-16"), Reason.INVALID_UTF8),
    "UTF-16 without a mark": Poison(text(str, "utf-16-le"), Reason.MALFORMED_JSON),
    "random bytes": Poison(raw(bytes(range(256)) * 8), Reason.INVALID_UTF8),
    "binary key": Poison(raw(b"{"), Reason.MALFORMED_JSON, key=b"\xff\xfe\x00", uuid_is_readable=False),
    "long key": Poison(raw(b"{"), Reason.MALFORMED_JSON, key=b"k" * 900_000, uuid_is_readable=False),
    "key of one byte too many": Poison(
        without("UUID"), Reason.MISSING_FIELD, "UUID", key=b"k" * (MAX_KEY_BYTES + 1), uuid_is_readable=False
    ),
    "trailing garbage": Poison(text(lambda found: found + " x"), Reason.MALFORMED_JSON),
    "trailing brace": Poison(text(lambda found: found + "}"), Reason.MALFORMED_JSON),
    "trailing bracket": Poison(text(lambda found: found + "]"), Reason.MALFORMED_JSON),
    "trailing comma": Poison(text(lambda found: found + ","), Reason.MALFORMED_JSON),
    "trailing NUL": Poison(text(lambda found: found + "\x00"), Reason.MALFORMED_JSON),
    "two documents": Poison(text(lambda found: found + "\n" + found), Reason.MALFORMED_JSON),
    "comment": Poison(text(lambda found: found[:-1] + "/* new */}"), Reason.MALFORMED_JSON),
    "single quotes": Poison(text(lambda found: found.replace('"', "'")), Reason.MALFORMED_JSON),
    "comma before the brace": Poison(text(lambda found: found[:-1] + ",}"), Reason.MALFORMED_JSON),
    "repeated name": Poison(extra('"Carrier": "AA"'), Reason.MALFORMED_JSON),
    "repeated name, escaped": Poison(extra(r'"Carrie\u0072": "AA"'), Reason.MALFORMED_JSON),
    "repeated name deep inside": Poison(extra('"Extra": [{"a": 1, "a": 2}]'), Reason.MALFORMED_JSON),
    "lone surrogate": Poison(swap('"UA"', r'"\ud800"'), Reason.MALFORMED_JSON),
    "lone surrogate in an unknown field": Poison(extra(r'"Extra": "\udc00"'), Reason.MALFORMED_JSON),
    "raw line break in a text": Poison(swap('"UA"', '"UA\n"'), Reason.MALFORMED_JSON),
    "raw NUL in a text": Poison(swap('"UA"', '"UA\x00"'), Reason.MALFORMED_JSON),
    "NaN": Poison(fields(DepDelay=float("nan")), Reason.MALFORMED_JSON),
    "Infinity": Poison(fields(DepDelay=float("inf")), Reason.MALFORMED_JSON),
    "-Infinity in an unknown field": Poison(fields(Extra=-float("inf")), Reason.MALFORMED_JSON),
    "leading zero": Poison(delay("05"), Reason.MALFORMED_JSON),
    "hexadecimal": Poison(delay("0x5"), Reason.MALFORMED_JSON),
    "number of 1,001 digits": Poison(extra('"Extra": ' + "1" * 1001), Reason.MALFORMED_JSON),
    "name of 60,000 characters": Poison(extra('"' + "n" * 60_000 + '": 1'), Reason.MALFORMED_JSON),
    "5,000 levels": Poison(raw(b'{"a":' * 5000 + b"1" + b"}" * 5000), Reason.TOO_NESTED),
    "brackets beyond the limit": Poison(extra('"Extra": [' + "[]," * MAX_BRACKETS + "[]]"), Reason.TOO_NESTED),
    "900 kB": Poison(extra('"Extra": "' + "a" * 900_000 + '"'), Reason.TOO_LARGE, key=None),
    "900 kB of control characters": Poison(raw(b"\x01" * 900_000), Reason.TOO_LARGE),
    "one byte too many": Poison(padded(MAX_MESSAGE_BYTES + 1), Reason.TOO_LARGE),
    # JSON, but no request
    "array": Poison(raw(b"[1]"), Reason.NOT_AN_OBJECT),
    "null": Poison(raw(b"null"), Reason.NOT_AN_OBJECT),
    "text": Poison(raw(b'"UUID"'), Reason.NOT_AN_OBJECT),
    "empty object": Poison(raw(b"{}"), Reason.MISSING_FIELD, "Origin"),
    "names in lower case": Poison(text(str.lower), Reason.MISSING_FIELD, "Origin"),
    # fields
    "UUID as number": Poison(fields(UUID=12345), Reason.WRONG_TYPE, "UUID"),
    "UUID without dashes": Poison(fields(UUID="0b0aa9ae3e0c4d299e8e6b0c3d1d9a11"), Reason.INVALID_FORMAT, "UUID"),
    "UUID in braces": Poison(
        lambda uuid: json.dumps(flight(UUID="{" + uuid + "}")).encode(), Reason.INVALID_FORMAT, "UUID"
    ),
    "no UUID, a key that is none": Poison(
        without("UUID"), Reason.INVALID_FORMAT, "UUID", key=b"flight", uuid_is_readable=False
    ),
    "no departure delay": Poison(without("DepDelay"), Reason.MISSING_FIELD, "DepDelay"),
    "departure delay null": Poison(fields(DepDelay=None), Reason.MISSING_FIELD, "DepDelay"),
    "NaN as text": Poison(fields(DepDelay="NaN"), Reason.WRONG_TYPE, "DepDelay"),
    "number as text": Poison(fields(Distance="2565"), Reason.WRONG_TYPE, "Distance"),
    "truth for a number": Poison(fields(DepDelay=True), Reason.WRONG_TYPE, "DepDelay"),
    "array for a number": Poison(fields(DepDelay=[5.0]), Reason.WRONG_TYPE, "DepDelay"),
    "1e400": Poison(delay("1e400"), Reason.OUT_OF_RANGE, "DepDelay"),
    "integer of 400 digits": Poison(delay("5" + "0" * 399), Reason.OUT_OF_RANGE, "DepDelay"),
    "integer beyond 2^53": Poison(delay("9007199254740993"), Reason.OUT_OF_RANGE, "DepDelay"),
    "integer beyond 2^63": Poison(delay("-9223372036854775809"), Reason.OUT_OF_RANGE, "DepDelay"),
    "just too late": Poison(delay("4320.000001"), Reason.OUT_OF_RANGE, "DepDelay"),
    "distance 0": Poison(fields(Distance=0), Reason.OUT_OF_RANGE, "Distance"),
    "distance 1e-400": Poison(swap("2565.0", "1e-400"), Reason.OUT_OF_RANGE, "Distance"),
    "distance -0.0": Poison(swap("2565.0", "-0.0"), Reason.OUT_OF_RANGE, "Distance"),
    "flight number as decimal": Poison(fields(FlightNum=1519.0), Reason.WRONG_TYPE, "FlightNum"),
    "flight number below 0": Poison(fields(FlightNum=-5), Reason.INVALID_FORMAT, "FlightNum"),
    "flight number of 100 kB": Poison(fields(FlightNum="1" * 100_000), Reason.INVALID_FORMAT, "FlightNum"),
    "carrier of 100 kB": Poison(fields(Carrier="U" * 100_000), Reason.INVALID_FORMAT, "Carrier"),
    "operator": Poison(fields(Carrier={"$ne": 1}), Reason.WRONG_TYPE, "Carrier"),
    "carrier in an array": Poison(fields(Carrier=["UA"]), Reason.WRONG_TYPE, "Carrier"),
    "carrier blank": Poison(fields(Carrier=" "), Reason.MISSING_FIELD, "Carrier"),
    "airport and an escaped NUL": Poison(fields(Origin="EWR\x00"), Reason.INVALID_FORMAT, "Origin"),
    "airport in wide letters": Poison(fields(Origin="\uff25WR"), Reason.INVALID_FORMAT, "Origin"),
    "same airports": Poison(fields(Dest="EWR"), Reason.SAME_AIRPORT, "Dest"),
    "date of the year 10000": Poison(fields(FlightDate="10000-01-01"), Reason.INVALID_FORMAT, "FlightDate"),
    "date of the year 0000": Poison(fields(FlightDate="0000-01-01"), Reason.OUT_OF_RANGE, "FlightDate"),
    "date of the year -1": Poison(fields(FlightDate="-0001-01-01"), Reason.INVALID_FORMAT, "FlightDate"),
    "30 February": Poison(fields(FlightDate="2016-02-30"), Reason.INVALID_FORMAT, "FlightDate"),
    "no leap year": Poison(fields(FlightDate="2100-02-29"), Reason.INVALID_FORMAT, "FlightDate"),
    "date with a time": Poison(fields(FlightDate="2013-12-20T00:00:00"), Reason.INVALID_FORMAT, "FlightDate"),
    "date in Arabic digits": Poison(fields(FlightDate="٢٠١٣-12-20"), Reason.INVALID_FORMAT, "FlightDate"),
    "date as a number of days": Poison(fields(FlightDate=16059), Reason.WRONG_TYPE, "FlightDate"),
    "leap second": Poison(fields(Timestamp="2016-12-31T23:59:60Z"), Reason.INVALID_FORMAT, "Timestamp"),
    "time of the year 1": Poison(fields(Timestamp="0001-01-01T00:00:00Z"), Reason.OUT_OF_RANGE, "Timestamp"),
    "time zone by name": Poison(fields(Timestamp="2016-12-31T23:59:59 CET"), Reason.INVALID_FORMAT, "Timestamp"),
    "19 hours from UTC": Poison(fields(Timestamp="2016-12-31T23:59:59+19:00"), Reason.INVALID_FORMAT, "Timestamp"),
    "75 minutes": Poison(fields(Timestamp="2016-12-31T23:59:59+05:75"), Reason.INVALID_FORMAT, "Timestamp"),
    "time without seconds": Poison(fields(Timestamp="2016-12-31T23:59Z"), Reason.INVALID_FORMAT, "Timestamp"),
    "24 o'clock": Poison(fields(CRSDepTime="2400"), Reason.INVALID_FORMAT, "CRSDepTime"),
    "time as number": Poison(fields(CRSDepTime=900), Reason.WRONG_TYPE, "CRSDepTime"),
    "canary as text": Poison(fields(Canary="true"), Reason.WRONG_TYPE, "Canary"),
    "replay with a space": Poison(fields(Replay="a b"), Reason.INVALID_FORMAT, "Replay"),
    "replay too long": Poison(fields(Replay="x" * 251), Reason.INVALID_FORMAT, "Replay"),
    "replay as number": Poison(fields(Replay=1), Reason.WRONG_TYPE, "Replay"),
    "canary as number": Poison(fields(Canary=1), Reason.WRONG_TYPE, "Canary"),
}

ODD_BUT_VALID: dict[str, tuple[Build, dict[str, Any]]] = {
    "unknown airports and carrier": (fields(Origin="QQQ", Dest="ZZZ", Carrier="9X"), {"Route": "QQQ-ZZZ"}),
    "unknown fields": (fields(Extra={"a": [None, 1e308, "\x00"]}, Weather="🌧"), {}),
    "29 February": (fields(FlightDate="2016-02-29"), {"DayOfYear": 60, "DayOfMonth": 29, "DayOfWeek": 1}),
    "29 February 2000": (fields(FlightDate="2000-02-29"), {"DayOfYear": 60}),
    "the 366th day": (fields(FlightDate="2016-12-31"), {"DayOfYear": 366}),
    "absurd date parts": (fields(DayOfWeek="x", DayOfYear=-1, DayOfMonth=[]), {"DayOfWeek": 5, "DayOfYear": 354}),
    "the earliest": (delay("-1440"), {"DepDelay": -1440.0}),
    "the latest, to 20 digits": (delay("4320.0000000000000001"), {"DepDelay": 4320.0}),
    "delay -0.0": (delay("-0.0"), {"DepDelay": 0.0}),
    "delay 1e-400": (delay("1e-400"), {"DepDelay": 0.0}),
    "delay 1E+2": (delay("1E+2"), {"DepDelay": 100.0}),
    "time in a zone": (fields(Timestamp="2016-12-31T23:30:00-17:59"), {"Timestamp": "2017-01-01T17:29:00Z"}),
    "time without a zone": (fields(Timestamp="2016-12-31T23:30:00"), {"Timestamp": "2016-12-31T23:30:00Z"}),
    "time to the nanosecond": (
        fields(Timestamp="2016-12-31T23:30:00.123456789Z"),
        {"Timestamp": "2016-12-31T23:30:00.123000Z"},
    ),
    "midnight": (fields(CRSDepTime="0000"), {"CRSDepTime": "0000"}),
    "optional fields null": (fields(CRSDepTime=None, Canary=None, Replay=None), {}),
    "a replay": (fields(Replay="manual__2026-01-01T00:00:00+00:00"), {"Replay": "manual__2026-01-01T00:00:00+00:00"}),
    "no canary": (fields(Canary=False), {}),
    "UUID in upper case": (lambda uuid: json.dumps(flight(UUID=uuid.upper())).encode(), {}),
    "UUID in the key only": (without("UUID"), {}),
    "UUID null": (fields(UUID=None), {}),
    "UUID and a line break": (lambda uuid: json.dumps(flight(UUID=uuid + "\n")).encode(), {}),
    "codes in lower case, blanks around": (
        fields(Carrier="ua", Origin=" ewr", Dest="sfo\n"),
        {"Carrier": "UA", "Origin": "EWR", "Dest": "SFO", "Route": "EWR-SFO"},
    ),
    "flight number as number": (fields(FlightNum=1519), {"FlightNum": "1519"}),
    "flight number with zeros": (fields(FlightNum="01284"), {"FlightNum": "1284"}),
    "flight number null": (fields(FlightNum=None), {"FlightNum": None}),
    "flight number empty": (fields(FlightNum=""), {"FlightNum": None}),
    "no flight number": (without("FlightNum"), {"FlightNum": None}),
    "names escaped": (swap('"Carrier"', r'"\u0043arrier"'), {"Carrier": "UA"}),
    "white space around": (text(lambda found: f"\r\n\t {found} \n"), {}),
    "exactly the limit": (padded(MAX_MESSAGE_BYTES), {}),
    "brackets to the limit": (extra('"Extra": ' + "[" * (MAX_BRACKETS - 1) + "]" * (MAX_BRACKETS - 1)), {}),
}


def good_flights(line: Stack) -> None:
    """A good flight on every partition is answered."""
    sent = [flight() for _ in range(line.settings.topic_partitions)]
    for partition, message in enumerate(sent):
        put(line, json.dumps(message).encode(), partition=partition)
    for message in sent:
        assert answer(line, message["UUID"], 30)["status"] == "OK"


def test_poison_becomes_dead_letters_and_the_stream_goes_on(line: Stack) -> None:
    sent: dict[str, tuple[str, bytes | None, tuple[int, int]]] = {}
    for name, poison in POISON.items():
        uuid = str(uuid4())
        value = poison.build(uuid)
        key = uuid.encode() if poison.key == READABLE else poison.key
        [place] = put(line, value, key=key)
        sent[name] = (uuid, value, place)
    good_flights(line)

    letters = [json.loads(message.value()) for message in messages_on(line, DEAD_LETTER_TOPIC)]
    by_place = {(letter["partition"], letter["offset"]): letter for letter in letters}
    rejected = mongo.connect(line.settings)[Collection.REJECTED]
    for name, (uuid, value, place) in sent.items():
        poison, letter = POISON[name], by_place[place]
        document = until(
            lambda place=place: rejected.find_one({"_id": rejected_id(REQUEST_TOPIC, *place)}), 20, f"{name} stored"
        )
        for found in (letter, document):
            assert (found["reason"], found.get("field")) == (poison.reason, poison.field), name
            assert (found["partition"], found["offset"]) == place
            assert found["payload_bytes"] == len(value or b"")
            expected = None if value is None else value[:PAYLOAD_BYTES].decode(errors="replace")
            assert found.get("payload") == expected, name
            assert found.get("payload_sha256") == (None if value is None else hashlib.sha256(value).hexdigest()), name
        assert document.get("UUID") == (uuid if poison.uuid_is_readable else None), name
        if poison.uuid_is_readable:
            polled = answer(line, uuid)
            assert (polled["status"], polled["reason"], polled["field"]) == ("REJECTED", poison.reason, poison.field)


def test_odd_but_valid_messages_are_answered(line: Stack) -> None:
    sent = {}
    for name, (build, _) in ODD_BUT_VALID.items():
        sent[name] = uuid = str(uuid4())
        put(line, build(uuid), key=uuid, headers=[("traceparent", b"\xff\x00"), ("empty", None)])
    replays = mongo.connect(line.settings)[Collection.REPLAYS]
    for name, uuid in sent.items():
        if "Replay" in ODD_BUT_VALID[name][1]:  # kept apart from what people asked, and no business of the web app
            shown = until(lambda uuid=uuid: replays.find_one({"_id": uuid}), 20, "the replay's answer")
        else:
            found = answer(line, uuid)
            assert found["status"] == "OK", (name, found)
            shown = found["prediction"]
        assert shown["UUID"] == uuid
        assert sum(shown["Probability"]) == pytest.approx(1)
        assert {field: shown.get(field) for field in ODD_BUT_VALID[name][1]} == ODD_BUT_VALID[name][1], name


def test_the_payloads_uuid_counts_where_the_key_is_another(line: Stack) -> None:
    message, other = flight(), str(uuid4())
    put(line, json.dumps(message).encode(), key=other, timestamp=1)  # and a record of 1970
    found = answer(line, message["UUID"])
    assert found["status"] == "OK"
    requested, predicted = (parse_timestamp(found["prediction"][name]) for name in ("RequestedAt", "PredictedAt"))
    assert dt.timedelta(0) <= predicted - requested < dt.timedelta(minutes=5)
    assert answer(line, other, 0)["status"] == "WAIT"
