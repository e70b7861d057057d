"""Which batches on a real Kafka are unreadable, and that whoever meets one goes on behind it."""

from __future__ import annotations

from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from flight_delays.errors import BrokerError
from flight_delays.infra.batches import Unreadable, is_of_a_batch, skip, unreadable
from tests.conftest import Stack
from tests.integration.line import create_topic, put_bomb, servers, until

pytestmark = pytest.mark.integration


@pytest.fixture
def topic(stack: Stack) -> str:
    """A topic of two partitions that takes batches as producers compress them."""
    return create_topic(stack, "batches", compression_type="producer")


def put_small(stack: Stack, topic: str, codec: str, count: int = 1, size: int = 400) -> None:
    producer = Producer({**servers(stack), "compression.type": codec})
    for _ in range(count):
        producer.produce(topic, b"a" * size, partition=0)
    assert producer.flush(20) == 0


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_only_what_is_large_once_unpacked_is_unreadable(codec: str, stack: Stack, topic: str) -> None:
    size = 20_000_000 if codec == "snappy" else 150_000_000  # snappy makes a byte at best of 21
    put_small(stack, topic, codec, 3000)
    taken, first = put_bomb(stack, topic, codec, size)
    put_small(stack, topic, codec, 3000)
    _, second = put_bomb(stack, topic, codec, 2_000_000)
    put_small(stack, topic, codec, 30, 900_000)  # each as large as any producer may send
    assert (taken, first, second) == ({None}, 3000, 6001)
    found = list(unreadable(stack.settings, topic, {0: 0, 1: 0}))
    assert [(each.partition, each.first, each.last) for each in found] == [(0, 3000, 3000), (0, 6001, 6001)]
    assert f"of {codec}: a record of {size:,}" in found[0].reason.replace(f"{size + 10:,}", f"{size:,}").replace(
        f"{size + 9:,}", f"{size:,}"
    )
    assert [each.first for each in unreadable(stack.settings, topic, {0: 3001, 1: 0})] == [6001]


def test_a_batch_is_unreadable_as_a_whole(stack: Stack, topic: str) -> None:
    put_small(stack, topic, "zstd")
    _, last = put_bomb(stack, topic, "zstd", 900_000, 400)
    put_small(stack, topic, "zstd")
    assert last == 400
    found = list(unreadable(stack.settings, topic, {0: 17}))  # begins within it
    assert [(each.first, each.last) for each in found] == [(1, 400)]


def test_a_client_goes_on_behind_what_it_cannot_read(stack: Stack, topic: str) -> None:
    put_small(stack, topic, "zstd", 5)
    put_bomb(stack, topic, "zstd", 900_000, 400)
    put_bomb(stack, topic, "zstd")
    put_small(stack, topic, "zstd", 5)
    consumer = Consumer({"bootstrap.servers": stack.settings.kafka_bootstrap, "group.id": str(uuid4())})
    consumer.assign([TopicPartition(topic, 0, 0)])
    offsets: list[int] = []
    skipped: set[tuple[int, int]] = set()

    def read() -> bool:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            offsets.append(message.offset())
        elif message is not None and is_of_a_batch(message):
            found = skip(consumer, stack.settings, message)
            assert isinstance(found, Unreadable)
            skipped.add((found.first, found.last))
        return len(offsets) == 10

    until(read, 60, "the messages around", every=0)
    consumer.close()
    assert offsets == [*range(5), *range(406, 411)]
    assert skipped == {(5, 404), (405, 405)}


def test_a_batch_of_a_partition_that_was_given_away_is_left_to_its_owner(stack: Stack, topic: str) -> None:
    put_bomb(stack, topic)
    consumer = Consumer({"bootstrap.servers": stack.settings.kafka_bootstrap, "group.id": str(uuid4())})
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = until(lambda: consumer.poll(1), 30, "the error")
    assert is_of_a_batch(message)
    consumer.unassign()
    assert skip(consumer, stack.settings, message) is None
    consumer.close()


def test_a_broker_that_is_away_is_named(stack: Stack) -> None:
    away = stack.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"})
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        list(unreadable(away, "nothing", {0: 0}))
    with pytest.raises(BrokerError, match="partition 0 has no leader"):
        list(unreadable(stack.settings, f"nothing-{uuid4()}", {0: 0}))
