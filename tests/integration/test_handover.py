"""Where a query goes on, on a real Kafka: topics of their own, and a checkpoint as Spark leaves it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from flight_delays.contract import MAX_MESSAGE_BYTES
from flight_delays.infra import kafka
from flight_delays.infra.batches import Unreadable
from flight_delays.predictor import handover, workload
from tests.conftest import Stack
from tests.integration.line import compressed, create_topic, messages_on, put_bomb, until

pytestmark = pytest.mark.integration

Put = Callable[..., None]
MINUTE = 60.0
BEGINNING = handover.Start({0: 0, 1: 0})


@pytest.fixture
def put(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts a message on partition 0 of "request", "answer" or "dead", that many seconds ago."""
    servers = {"bootstrap.servers": stack.settings.kafka_bootstrap}
    names = {kind: create_topic(stack, kind) for kind in ("request", "answer", "dead")}
    places = dict(zip((names["answer"], names["dead"]), workload.PLACES.values(), strict=True))
    monkeypatch.setattr(handover, "REQUEST_TOPIC", names["request"])
    for module in (handover, workload):
        monkeypatch.setattr(module, "PLACES", places)
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


@pytest.mark.parametrize("answers", [3, 9])
def test_an_offset_that_was_given_away_again_was_not_answered(
    stack: Stack, put: Put, tmp_path: Path, answers: int
) -> None:
    for offset in range(answers):
        put("answer", answer(offset), 2 * MINUTE)
    for _ in range(3):  # the broker's machine lost the first three, and their offsets are those of other requests now
        put("request", {}, MINUTE)
    assert goes_on(stack, tmp_path, committed=0) == 0


def test_answers_of_a_topic_that_is_gone_do_not_count(stack: Stack, put: Put, tmp_path: Path) -> None:
    for offset in range(3):
        put("request", {}, 2 * MINUTE)
        put("answer", answer(offset) | {"Deployment": 4 if offset == 2 else 5}, MINUTE)
    assert goes_on(stack, tmp_path, committed=0, topic_since=5) == 2


def numbers(stack: Stack, begin: int) -> list[int]:
    """The numbers of the requests from that offset on."""
    messages = messages_on(stack, handover.REQUEST_TOPIC, begin=begin)
    return sorted(json.loads(message.value() or b"")["number"] for message in messages)


def test_a_start_goes_around_what_no_query_can_read(stack: Stack, put: Put) -> None:
    topic = handover.REQUEST_TOPIC
    with compressed(stack, topic):
        for number in range(6):
            put("request", {"number": number}, MINUTE)
        put_bomb(stack, topic)
        put_bomb(stack, topic, size=2_000_000)  # the client could read it, the query must not
        put("request", {"number": 6}, MINUTE)
        put_bomb(stack, topic, size=900_000, count=400)
    put("request", {"number": 7}, MINUTE)
    now = int(time.time() * 1000)
    begin = handover.Start({0: 1, 1: 0}, {(0, 2): now, (0, 3): now})  # 0 to 3 are answered
    behind, gaps = handover.go_around(stack.settings, begin, ())
    assert [(gap.first, gap.last) for gap in gaps] == [(6, 6), (7, 7), (9, 408)]
    assert behind.offsets == {0: 409, 1: 0}
    assert numbers(stack, 409) == [1, 4, 5, 6, 7], "what was not answered comes again, once"
    again = handover.go_around(stack.settings, BEGINNING, [(0, 6), (0, 7), (0, 9)])
    assert (again[0].offsets, again[1]) == ({0: 409, 1: 0}, [])
    assert numbers(stack, 409) == [1, 4, 5, 6, 7], "nothing comes a second time"


def test_gaps_without_a_request_between_them_cost_no_read(
    stack: Stack, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("request", {"number": 1}, MINUTE)
    with compressed(stack, handover.REQUEST_TOPIC):
        for _ in range(5):
            put_bomb(stack, handover.REQUEST_TOPIC)
    reads: list[Any] = []
    read = kafka.read

    def counted(consumer: Any, settings: Any, ranges: Any, seconds: float) -> Any:
        reads.extend((begin, end) for begin, end in ranges.values() if begin < end)
        return read(consumer, settings, ranges, seconds)

    monkeypatch.setattr(kafka, "read", counted)
    start, gaps = handover.go_around(stack.settings, BEGINNING, ())
    assert (start.offsets[0], len(gaps), reads) == (6, 5, [(0, 1)])


def test_a_request_behind_an_open_transaction_comes_again(stack: Stack, put: Put) -> None:
    topic = handover.REQUEST_TOPIC
    options = {"bootstrap.servers": stack.settings.kafka_bootstrap, "transactional.id": "of a test"}
    foreign = Producer(options)
    foreign.init_transactions(20)
    foreign.begin_transaction()
    foreign.produce(topic, b'{"number": 0}', partition=0)
    assert foreign.flush(20) == 0
    put("request", {"number": 1}, MINUTE)
    with compressed(stack, topic):
        put_bomb(stack, topic)
    start, gaps = handover.go_around(stack.settings, BEGINNING, ())
    foreign.abort_transaction(20)
    assert (start.offsets[0], len(gaps)) == (3, 1)
    with kafka.reader(stack.settings) as consumer:  # the transaction's end has an offset, too
        again = kafka.read(consumer, stack.settings, {(topic, 0): (3, 6)}, 20)
        assert [json.loads(message.value() or b"")["number"] for message in again] == [0, 1]


def test_an_answer_to_what_had_the_offset_before_hides_no_request(stack: Stack, put: Put, tmp_path: Path) -> None:
    for offset in range(3):
        put("answer", answer(offset), 2 * MINUTE)
    with compressed(stack, handover.REQUEST_TOPIC):
        for number in range(3):  # the broker's machine lost the first three
            put("request", {"number": number}, MINUTE)
        put_bomb(stack, handover.REQUEST_TOPIC)
    assert goes_on(stack, tmp_path, committed=0) == 0
    start = handover.starting_point(stack.settings, tmp_path)
    assert handover.go_around(stack.settings, start, ())[0].offsets == {0: 4, 1: 0}
    assert numbers(stack, 4) == [0, 1, 2]


def test_the_largest_request_before_a_gap_stops_nothing(stack: Stack, put: Put) -> None:
    topic = handover.REQUEST_TOPIC
    with compressed(stack, topic):  # unpacked, and with its header, Kafka would not take it again
        assert put_bomb(stack, topic, size=1_048_570)[0] == {None}
        put_bomb(stack, topic)
    start, _ = handover.go_around(stack.settings, BEGINNING, ())
    assert start.offsets == {0: 2, 1: 0}
    (again,) = messages_on(stack, topic, begin=2)
    assert len(again.value() or b"") == MAX_MESSAGE_BYTES + 1, "so it is rejected as too large"


def test_requests_that_are_left_are_sent_again_while_retention_removes_others(
    stack: Stack, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = handover.REQUEST_TOPIC
    with compressed(stack, topic):
        for number in range(5):
            put("request", {"number": number}, MINUTE)
        put_bomb(stack, topic)
    unreadable = handover.unreadable

    def before_retention(*arguments: Any) -> list[Unreadable]:
        found = list(unreadable(*arguments))
        admin = AdminClient({"bootstrap.servers": stack.settings.kafka_bootstrap})
        admin.delete_records([TopicPartition(topic, 0, 2)])[TopicPartition(topic, 0)].result(20)
        put("request", {"number": 99}, 0)
        return found

    monkeypatch.setattr(handover, "unreadable", before_retention)
    handover.go_around(stack.settings, BEGINNING, ())
    assert [number for number in numbers(stack, 6) if number != 99] == [2, 3, 4]


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
