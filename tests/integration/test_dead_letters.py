"""Reporting and replaying rejected requests: with the real Kafka and MongoDB, and through the whole line."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from flight_delays.answers import dead_letters
from flight_delays.answers.dead_letters import choose, read_originals, replay, report
from flight_delays.contract import PAYLOAD_BYTES, REQUEST_TOPIC, Collection, DagId, rejected_id
from flight_delays.errors import DataError
from tests.conftest import Mongo, Stack
from tests.integration.line import answer, create_topic, flight, messages_on, put, put_bomb, run_dag

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
EARLIER = NOW - dt.timedelta(hours=24)
Replayed = Callable[..., dict[str, Any]]
GONE = (0, 10**9)
"""A place on the request topic that Kafka does not have."""


def reject(mongo: Mongo, value: bytes | None, place: tuple[int, int], reason: str = "wrong_type", **more: Any) -> str:
    """The document that the sink would store for the message at that place; returns its `_id`."""
    document = {
        "_id": rejected_id(REQUEST_TOPIC, *place),
        "reason": reason,
        "payload_bytes": len(value or b""),
        "partition": place[0],
        "offset": place[1],
        "RejectedAt": NOW,
    }
    if value is not None:
        document["payload"] = value[:PAYLOAD_BYTES].decode(errors="replace")
        document["payload_sha256"] = hashlib.sha256(value).hexdigest()
    mongo[Collection.REJECTED].insert_one(document | more)
    return str(document["_id"])


def marked(mongo: Mongo) -> set[str]:
    return {document["_id"] for document in mongo[Collection.REJECTED].find() if "ReplayedAt" in document}


def ends(stack: Stack) -> int:
    return len(messages_on(stack, REQUEST_TOPIC))


@pytest.fixture
def replayed(stack: Stack, mongo: Mongo) -> Replayed:
    """Chooses rejected requests by the filters, replays them, and returns what was done."""
    producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap})

    def run(producer: Producer = producer, **options: Any) -> dict[str, Any]:
        filters = {name: options.pop(name) for name in ("ids", "reasons") if name in options}
        chosen = choose(mongo[Collection.REJECTED], since=EARLIER, limit=10, **filters)
        return replay(mongo[Collection.REJECTED], chosen, stack.settings, producer, **options)

    return run


def test_the_report_counts_by_reason_and_field(mongo: Mongo, caplog: pytest.LogCaptureFixture) -> None:
    for offset in range(5):
        reject(mongo, b"{%d" % offset, (0, offset), "malformed_json", RejectedAt=NOW + dt.timedelta(seconds=offset))
    late = {"field": "DepDelay", "UUID": "u"}
    reject(mongo, b'{"DepDelay": "5"}', (1, 0), "wrong_type", **late, ReplayedAt=NOW)
    reject(mongo, None, (1, 1), "empty", RejectedAt=EARLIER - dt.timedelta(seconds=1))
    with caplog.at_level("INFO"):
        found = report(mongo[Collection.REJECTED], EARLIER)
    assert (found["rejected"], found["replayed"]) == (6, 1)
    often, once = found["groups"]
    assert (often["reason"], often["field"], often["rejected"], often["replayed"]) == ("malformed_json", None, 5, 0)
    assert [example["payload"] for example in often["examples"]] == ["{4", "{3", "{2"], "the newest"
    assert (once["reason"], once["field"], once["rejected"], once["replayed"]) == ("wrong_type", "DepDelay", 1, 1)
    assert json.loads(json.dumps(found)) == found, "Airflow keeps it as JSON"
    assert "6 rejected since 2026-02-28T12:00:00+00:00, 1 of them replayed" in caplog.text
    assert "DepDelay" in caplog.text
    assert report(mongo[Collection.REJECTED], NOW + dt.timedelta(days=1))["groups"] == []


def test_choosing(mongo: Mongo) -> None:
    uuid = str(uuid4())
    first = reject(mongo, b"1", (0, 1), "not_an_object", UUID=uuid)
    second = reject(mongo, b"2", (0, 2), "not_an_object", RejectedAt=NOW - dt.timedelta(hours=1))
    old = reject(mongo, b"3", (0, 3), "not_an_object", RejectedAt=EARLIER - dt.timedelta(hours=1))
    other = reject(mongo, b"4", (0, 4), "malformed_json")

    def ids(**filters: Any) -> list[str]:
        return [
            document["_id"]
            for document in choose(mongo[Collection.REJECTED], since=EARLIER, **{"limit": 10, **filters})
        ]

    assert ids(reasons=["not_an_object"]) == [second, first]
    assert ids(reasons=["not_an_object", "malformed_json"], limit=3) == [second, first, other]
    assert ids(uuids=[uuid.upper()]) == [first]
    assert ids(ids=[old, other]) == [old, other], "what is named may be of any age"
    assert ids(ids=[old, other], reasons=["malformed_json"]) == [other]
    with pytest.raises(DataError, match="Choose what to replay"):
        ids()
    with pytest.raises(DataError, match="More than 2"):
        ids(reasons=["not_an_object", "malformed_json"], limit=2)


def test_the_original_bytes_are_replayed_with_their_key_and_only_once(
    stack: Stack, mongo: Mongo, replayed: Replayed
) -> None:
    message = flight(Extra="x" * PAYLOAD_BYTES, FlightNum=None)  # as 0.1.0 rejected it; the stored payload is cut
    value = json.dumps(message).encode()
    [place] = put(stack, value, key=b"\xffkey")
    put(stack, b"next to it", partition=place[0])
    id_ = reject(mongo, value, place)
    before = ends(stack)

    assert replayed(ids=[id_]) == {"chosen": 1, "replayed": 1, "not_replayed": []}
    assert marked(mongo) == {id_}
    lying = messages_on(stack, REQUEST_TOPIC)
    assert len(lying) == before + 1
    assert sum((message.key(), message.value()) == (b"\xffkey", value) for message in lying) == 2

    again = replayed(ids=[id_])
    assert again["replayed"] == 0
    assert "was replayed at" in again["not_replayed"][0]["why"]
    assert ends(stack) == before + 1
    assert replayed(ids=[id_], again=True)["replayed"] == 1
    assert ends(stack) == before + 2


def test_the_stored_payload_serves_once_kafka_has_forgotten(stack: Stack, mongo: Mongo, replayed: Replayed) -> None:
    message = flight(DepDelay="5")
    value = json.dumps(message).encode()
    [taken] = put(stack, b"another message, as after the topic was made anew")
    whole = reject(mongo, value, taken, UUID=message["UUID"])
    cut = reject(mongo, json.dumps(flight(Extra="x" * PAYLOAD_BYTES)).encode(), GONE)
    binary = reject(mongo, b"\xff" + value, (1, 10**9), "invalid_utf8")
    done = replayed(ids=[whole, cut, binary], changes={"DepDelay": 5})
    assert done["replayed"] == 1
    assert {refused["id"] for refused in done["not_replayed"]} == {cut, binary}
    assert all("Kafka has the message no more" in refused["why"] for refused in done["not_replayed"])
    assert marked(mongo) == {whole}
    sent = next(m for m in messages_on(stack, REQUEST_TOPIC) if m.key() == message["UUID"].encode())
    assert json.loads(sent.value()) == message | {"DepDelay": 5}


@pytest.mark.parametrize(
    ("value", "changes", "why"),
    [
        (json.dumps(flight(DepDelay="5")).encode(), None, "would be rejected again: DepDelay: Input should be"),
        (json.dumps(flight(DepDelay="5")).encode(), {"Carrier": "AA"}, "would be rejected again: DepDelay"),
        (b"[1]", {"DepDelay": 5}, "no JSON object"),
        (b"{", {"DepDelay": 5}, "no JSON that could be changed"),
        (b"[" * 100_000, {"DepDelay": 5}, "no JSON that could be changed"),
        (None, None, "would be rejected again: the message is empty"),
        (json.dumps(flight(DepDelay=float("nan"))).encode(), None, "would be rejected again: NaN is no JSON"),
    ],
)
def test_what_would_be_rejected_again_is_not_sent(  # noqa: PLR0917
    stack: Stack, mongo: Mongo, replayed: Replayed, value: bytes | None, changes: dict[str, Any] | None, why: str
) -> None:
    [place] = put(stack, value)
    id_ = reject(mongo, value, place)
    before = ends(stack)
    done = replayed(ids=[id_], changes=changes)
    assert done["replayed"] == 0
    assert done["not_replayed"][0]["id"] == id_
    assert why in done["not_replayed"][0]["why"]
    assert ends(stack) == before
    assert marked(mongo) == set()


def test_nan_is_mended_by_a_change(stack: Stack, mongo: Mongo, replayed: Replayed) -> None:
    value = json.dumps(flight(DepDelay=float("nan"))).encode()
    [place] = put(stack, value)
    reject(mongo, value, place, "malformed_json")
    assert replayed(reasons=["malformed_json"], changes={"DepDelay": 5})["replayed"] == 1


def test_what_the_sink_rejected_is_no_request(stack: Stack, mongo: Mongo, replayed: Replayed) -> None:
    value = json.dumps(flight()).encode()
    reject(mongo, value, (0, 0), "not_storable", _id="flight_delay_classification_response-0-0")
    done = replayed(reasons=["not_storable"])
    assert done["replayed"] == 0
    assert "is no request" in done["not_replayed"][0]["why"]


def test_one_uuid_is_not_given_to_several(stack: Stack, mongo: Mongo, replayed: Replayed) -> None:
    for offset in (1, 2):
        reject(mongo, json.dumps(flight()).encode(), (0, 10**9 + offset))
    with pytest.raises(DataError, match="same UUID"):
        replayed(reasons=["wrong_type"], changes={"UUID": str(uuid4())})


def test_nothing_is_marked_that_kafka_did_not_confirm(mongo: Mongo, replayed: Replayed) -> None:
    value = json.dumps(flight()).encode()
    reject(mongo, value, (0, 10**9), UUID=str(uuid4()))
    nowhere = Producer({"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 300, "log_level": 0})
    with pytest.raises(RuntimeError, match="did not take 1 of 1"):
        replayed(nowhere, reasons=["wrong_type"])
    assert marked(mongo) == set()


def test_a_thousand_originals_are_found_at_their_places(stack: Stack) -> None:
    values = [b"%d" % number for number in range(1000)]
    places = put(stack, *values)
    found = read_originals(stack.settings, {*places, GONE, (99, 0)})
    assert [found[place].value for place in places] == values
    assert len(found) == len(set(places))


def test_originals_around_an_unreadable_batch_are_found(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = create_topic(stack, "originals", 1, compression_type="producer")
    producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap})
    producer.produce(topic, b"before")
    producer.flush(20)
    put_bomb(stack, topic, size=900_000, count=400)
    producer.produce(topic, b"behind")
    producer.flush(20)
    monkeypatch.setattr(dead_letters, "REQUEST_TOPIC", topic)
    found = read_originals(stack.settings, {(0, 0), (0, 17), (0, 401)})
    assert {place: original.value for place, original in found.items()} == {(0, 0): b"before", (0, 401): b"behind"}


def test_a_rejected_request_is_mended_replayed_and_predicted(line: Stack) -> None:
    message = flight(DepDelay="5")
    put(line, json.dumps(message).encode(), key=message["UUID"])
    assert answer(line, message["UUID"])["status"] == "REJECTED"
    only_report = run_dag(line, DagId.DEAD_LETTERS)
    assert (only_report["report"], only_report["replay"]) == ("success", "skipped")
    assert answer(line, message["UUID"], 0)["status"] == "REJECTED"
    conf = {"replay": True, "uuids": [message["UUID"]], "changes": {"DepDelay": 5}}
    assert run_dag(line, DagId.DEAD_LETTERS, conf)["replay"] == "success"
    found = answer(line, message["UUID"], 30)
    assert (found["status"], found["prediction"]["DepDelay"]) == ("OK", 5.0)
    nothing_chosen = run_dag(line, DagId.DEAD_LETTERS, {"replay": True})
    assert (nothing_chosen["report"], nothing_chosen["replay"]) == ("success", "failed")
