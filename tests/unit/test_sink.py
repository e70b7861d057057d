"""From a Kafka message to the document that is stored: no message may be in the way of the next."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import bson
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from flight_delays.answers.sink import entry
from flight_delays.contract import DEAD_LETTER_TOPIC, RESPONSE_TOPIC, Collection, Reason
from tests.flights import answer

UUID = "8f14e45f-ceea-467a-9af0-1f2e3d4c5b6a"
ANSWER = answer(UUID)
LETTER = {
    "reason": "out_of_range",
    "field": "DepDelay",
    "payload": "{}",
    "payload_bytes": 2,
    "partition": 1,
    "offset": 7,
}


def message(value: bytes | str | dict[str, Any] | None, topic: str = RESPONSE_TOPIC, key: Any = None) -> Message:
    if isinstance(value, dict):
        value = json.dumps(value)
    if isinstance(value, str):
        value = value.encode()
    return Message(topic=topic, partition=1, offset=5, key=key, value=value, timestamp=(1, 1_482_600_000_123))


def stored(value: Any, **more: Any) -> tuple[Collection, dict[str, Any]]:
    found = entry(message(value, **more))
    options: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(tz_aware=True)
    document = bson.decode(found.bson, options)
    assert document["_id"] == found.id
    return found.collection, document


def test_an_answer_keeps_all_fields_and_gets_dates() -> None:
    collection, document = stored(
        {**ANSWER, "UUID": UUID.upper(), "CRSDepTime": "0900", "Other": [1], "RequestedAt": "2016-12-24T17:19:59.900Z"}
    )
    assert collection == Collection.RESPONSES
    assert document == {
        **ANSWER,
        "_id": UUID,
        "CRSDepTime": "0900",
        "Timestamp": dt.datetime(2016, 12, 24, 11, 30, 15, 123000, dt.UTC),
        "FlightDate": dt.datetime(2016, 12, 25, tzinfo=dt.UTC),
        "PredictedAt": dt.datetime(2016, 12, 24, 17, 20, 0, 123000, dt.UTC),
        "RequestedAt": dt.datetime(2016, 12, 24, 17, 19, 59, 900000, dt.UTC),
    }


def test_a_canary_is_apart_and_each_deployment_has_its_own() -> None:
    collection, document = stored({**ANSWER, "Canary": True})
    assert (collection, document["_id"], document["UUID"]) == (Collection.CANARIES, f"{UUID}-3", UUID)
    assert stored({**ANSWER, "Canary": True, "Deployment": 4})[1]["_id"] == f"{UUID}-4"
    assert stored({**ANSWER, "Canary": False})[0] == Collection.RESPONSES


def test_a_replay_is_apart_and_no_canary() -> None:
    replay = "manual__2026-01-01T00:00:00.123456+00:00"
    collection, document = stored({**ANSWER, "Replay": replay})
    assert (collection, document["_id"], document["Replay"]) == (Collection.REPLAYS, UUID, replay)
    assert stored({**ANSWER, "Replay": None})[0] == Collection.RESPONSES
    assert stored({**ANSWER, "Replay": replay, "Canary": True})[0] == Collection.CANARIES


def test_a_dead_letter_is_named_after_its_request_and_found_by_its_uuid_in_lower_case() -> None:
    collection, document = stored({**LETTER, "UUID": UUID.upper()}, topic=DEAD_LETTER_TOPIC)
    assert collection == Collection.REJECTED
    assert document == {
        **LETTER,
        "_id": "flight_delay_classification_request-1-7",
        "UUID": UUID,
        "RejectedAt": dt.datetime(2016, 12, 24, 17, 20, 0, 123000, dt.UTC),
    }


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (None, "empty"),
        ("", "empty"),
        ("no JSON", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ("[1]", "object"),
        ({**ANSWER, "Prediction": 4}, "Prediction"),
        ({**ANSWER, "Prediction": "2"}, "Prediction"),
        ({**ANSWER, "Probability": [1.0]}, "Probability"),
        ({**ANSWER, "FlightDate": "2016-02-30"}, "FlightDate"),
        ({**ANSWER, "UUID": "x"}, "UUID"),
        ({**ANSWER, "RequestOffset": 2**63}, "not a BSON document"),
        ({**ANSWER, "Deployment": 10**400}, "not a BSON document"),
        ({**ANSWER, "Route": "R" * 17_000_000}, "above MongoDB's"),
    ],
)
def test_what_cannot_be_stored_is_rejected(value: Any, detail: str) -> None:
    collection, document = stored(value, key=UUID.upper().encode())
    assert collection == Collection.REJECTED
    assert document["_id"] == f"{RESPONSE_TOPIC}-1-5"  # the response's place, never the request's
    assert document["reason"] == Reason.NOT_STORABLE
    assert detail in document["detail"]
    assert document["UUID"] == UUID
    assert len(document["payload"]) <= 65_536
    assert (document["partition"], document["offset"]) == (1, 5)


@pytest.mark.parametrize(("milliseconds", "year"), [(-1, 1970), (-(2**62), 1970), (2**62, 2100)])
def test_a_time_that_is_none_stops_nothing(milliseconds: int, year: int) -> None:
    found = entry(Message(topic=RESPONSE_TOPIC, partition=1, offset=5, value=b"{", timestamp=(1, milliseconds)))
    assert bson.decode(found.bson)["RejectedAt"].year == year


def test_thirty_levels_in_an_unknown_field_do_no_harm() -> None:
    deep: Any = 1
    for _ in range(30):
        deep = {"deeper": [deep]}
    assert stored({**ANSWER, "Deep": deep})[1] == stored(ANSWER)[1]


_ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from([10**19, -(10**19), [[]], {"$ne": 1}, "\x00", "\ud800", [1, 2, 3, "4"], [1e400] * 4])
)


@given(
    value=st.none()
    | st.binary(max_size=40)
    | st.builds(lambda name, odd: {**ANSWER, name: odd}, st.sampled_from(list(ANSWER)), _ODD)
    | st.builds(lambda name, odd: {**LETTER, name: odd}, st.sampled_from([*LETTER, "UUID", "payload_sha256"]), _ODD),
    topic=st.sampled_from([RESPONSE_TOPIC, DEAD_LETTER_TOPIC]),
    key=st.none() | st.binary(max_size=40),
)
def test_every_message_becomes_a_document(value: Any, topic: str, key: bytes | None) -> None:
    assert stored(value, topic=topic, key=key)[0] in (Collection.RESPONSES, Collection.REJECTED)
