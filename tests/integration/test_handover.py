"""Where a query goes on, on a real Kafka: topics of their own, and a checkpoint as Spark leaves it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from flight_delays.predictor import handover
from tests.conftest import Stack
from tests.integration.line import compressed, create_topic, messages_on, put_bomb, until

pytestmark = pytest.mark.integration

Put = Callable[..., None]
MINUTE = 60.0


@pytest.fixture
def put(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts a message on partition 0 of "request", "answer" or "dead", that many seconds ago."""
    servers = {"bootstrap.servers": stack.settings.kafka_bootstrap}
    names = {kind: create_topic(stack, kind) for kind in ("request", "answer", "dead")}
    places = dict(zip((names["answer"], names["dead"]), handover._PLACES.values(), strict=True))
    monkeypatch.setattr(handover, "REQUEST_TOPIC", names["request"])
    monkeypatch.setattr(handover, "_PLACES", places)
    producer = Producer(servers)

    def now(kind: str, value: object, ago: float) -> None:
        value = value if isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(names[kind], value, partition=0, timestamp=int((time.time() - ago) * 1000))
        assert producer.flush(10) == 0

    return now


def goes_on(stack: Stack, folder: Path, committed: int, topic_since: int = 0) -> int:
    """The offset of partition 0, where the last batch was committed at that one."""
    file = folder / "sources" / "0" / "0"
    file.parent.mkdir(parents=True)
    file.write_text("v1\n" + json.dumps({handover.REQUEST_TOPIC: {"0": committed, "1": 0}}))
    os.utime(file, (time.time() - 10 * MINUTE,) * 2)
    start = handover.starting_point(stack.settings, folder, topic_since)
    return int(json.loads(start.for_spark())[handover.REQUEST_TOPIC]["0"])


def answer(offset: int) -> dict[str, int]:
    return {"RequestPartition": 0, "RequestOffset": offset}


def test_behind_answers_and_dead_letters(stack: Stack, put: Put, tmp_path: Path) -> None:
    for _ in range(8):
        put("request", {}, 2 * MINUTE)
    for offset in (2, 3, 5, 7):
        put("answer", answer(offset), MINUTE)
    put("dead", {"partition": 0, "offset": 4}, MINUTE)
    assert goes_on(stack, tmp_path, committed=2) == 6


def test_an_answer_that_may_not_be_on_disk_does_not_count(stack: Stack, put: Put, tmp_path: Path) -> None:
    for offset in range(3):
        put("request", {}, 2 * MINUTE)
        put("answer", answer(offset), MINUTE if offset == 0 else 0)
    assert goes_on(stack, tmp_path, committed=0) == 1


def test_kafka_has_it_on_disk_soon(stack: Stack, put: Put) -> None:
    put("request", {}, 0)
    recovery_points = stack.settings.home / "kafka" / "data" / "recovery-point-offset-checkpoint"
    until(lambda: f"{handover.REQUEST_TOPIC} 0 1\n" in recovery_points.read_text(), 20, "the flush")


def test_an_offset_that_was_given_away_again_was_not_answered(stack: Stack, put: Put, tmp_path: Path) -> None:
    for offset in range(3):
        put("answer", answer(offset), 2 * MINUTE)
    for _ in range(3):  # the broker's machine lost the first three, and their offsets are those of other requests now
        put("request", {}, MINUTE)
    assert goes_on(stack, tmp_path, committed=0) == 0


def test_answers_of_a_topic_that_is_gone_do_not_count(stack: Stack, put: Put, tmp_path: Path) -> None:
    for offset in range(3):
        put("request", {}, 2 * MINUTE)
        put("answer", answer(offset) | {"Deployment": 4 if offset == 2 else 5}, MINUTE)
    assert goes_on(stack, tmp_path, committed=0, topic_since=5) == 2


def test_a_start_goes_around_what_no_query_can_read(stack: Stack, put: Put) -> None:
    topic = handover.REQUEST_TOPIC
    with compressed(stack, topic):
        for number in range(6):
            put("request", {"number": number}, MINUTE)
        put_bomb(stack, topic)
        put("request", {"number": 6}, MINUTE)
        put_bomb(stack, topic, size=900_000, count=400)
    put("request", {"number": 7}, MINUTE)
    begin = handover.Start({0: 1, 1: -2}, {(0, 2), (0, 3)})  # 0 to 3 are answered
    found = handover.unreadable_from(stack.settings, begin)
    assert [(gap.first, gap.last) for gap in found] == [(6, 6), (8, 407)]
    behind = handover.go_around(stack.settings, begin, found)
    assert behind.offsets == {0: 408, 1: 0}
    again = [json.loads(message.value() or b"") for message in messages_on(stack, topic, begin=408)]
    assert sorted(each["number"] for each in again) == [1, 4, 5, 6, 7], "what was not answered comes again, once"


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b'{"RequestPartition": 1e999, "RequestOffset": 0}',
        b'{"RequestPartition": true, "RequestOffset": "1"}',
        b'{"RequestPartition": 0}',
    ],
    ids=lambda value: value[:40].decode(errors="replace"),
)
def test_a_foreign_message_among_the_answers_stops_nothing(
    foreign: bytes, stack: Stack, put: Put, tmp_path: Path
) -> None:
    put("request", {}, 2 * MINUTE)
    put("answer", foreign, MINUTE)
    put("answer", answer(0), MINUTE)
    assert goes_on(stack, tmp_path, committed=0) == 1
