"""Kafka's clients as all stages use them: options, partitioning, and a consumer that reads at offsets of its own."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from flight_delays.contract import CLIENT_ID
from flight_delays.errors import BrokerError, sentence
from flight_delays.infra.batches import skip

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient

    from flight_delays.settings import Settings

PARTITIONER: Final = "consistent"
"""librdkafka's name for CRC32 of the key modulo the number of partitions."""
ANSWER_SECONDS: Final = 10.0
"""Timeout for one answer of the broker."""


def partition_of(key: str, partitions: int) -> int:
    """The partition that the `PARTITIONER` of every producer here chooses for a key."""
    return zlib.crc32(key.encode()) % partitions


def client_options(settings: Settings) -> dict[str, Any]:
    """What every client has: the broker's address, and errors as exceptions only, not in librdkafka's own log."""
    return {"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0}


def producer_options(settings: Settings, *, timeout_seconds: float) -> dict[str, Any]:
    """What every producer has: the client id and the partitioner, and the timeout until a message is confirmed."""
    timeout = int(timeout_seconds * 1000)
    own = {"client.id": CLIENT_ID, "partitioner": PARTITIONER, "message.timeout.ms": timeout}
    return {**client_options(settings), **own}


@contextmanager
def reader(settings: Settings) -> Iterator[Consumer]:
    """A consumer that reads at offsets of its own: no group has to form before it does, and it commits nothing.

    Raises BrokerError where the broker does not answer what is asked within.
    """
    from confluent_kafka import Consumer, KafkaException

    options = {"group.id": "flight_delay_predictor", "enable.auto.commit": False, "fetch.wait.max.ms": 50}
    options |= {"auto.offset.reset": "earliest"}  # where Kafka has just removed what was to be read
    options |= {"enable.partition.eof": True}  # a partition may end with what is no message, e.g. a transaction's end
    options |= {"isolation.level": "read_uncommitted"}  # as Spark; else the end is where an open transaction began
    consumer = Consumer({**client_options(settings), **options})
    try:
        yield consumer
    except KafkaException as error:
        raise no_broker(settings, error) from error
    finally:
        consumer.close()


def partitions_of(
    client: AdminClient | Consumer | Producer, settings: Settings, topic: str, timeout_seconds: float = 5
) -> list[TopicPartition]:
    """The partitions of the topic, in their order. Raises BrokerError where there is none."""
    from confluent_kafka import KafkaException, TopicPartition

    try:
        found = client.list_topics(topic, timeout=timeout_seconds).topics[topic]
    except KafkaException as error:
        raise no_broker(settings, error) from error
    if found.error is not None:
        raise BrokerError(
            f"Kafka at {settings.kafka_bootstrap} has no topic {topic}; the DAG flight_delay_predictor creates it "
            f"({found.error})"
        )
    return [TopicPartition(topic, number) for number in sorted(found.partitions)]


def bounds(
    consumer: Consumer, settings: Settings, topic: str, timeout_seconds: float = ANSWER_SECONDS
) -> dict[int, tuple[int, int]]:
    """The first and the next offset of each partition of the topic. Raises BrokerError or KafkaException."""
    places = partitions_of(consumer, settings, topic, timeout_seconds)
    return {place.partition: consumer.get_watermark_offsets(place, timeout=timeout_seconds) for place in places}


def ends(settings: Settings, topic: str) -> list[int]:
    """The offset at which each partition of the topic ends, in their order. Raises BrokerError."""
    with reader(settings) as consumer:
        return [following for _, following in bounds(consumer, settings, topic).values()]


def since(
    consumer: Consumer, settings: Settings, topics: Iterable[str], moment: float, timeout_seconds: float
) -> dict[tuple[str, int], tuple[int, int]]:
    """The first offset since then (seconds since 1970) and the next offset of each (topic, partition) that has any.

    Raises BrokerError or KafkaException.
    """
    from confluent_kafka import TopicPartition

    places = [place for topic in topics for place in partitions_of(consumer, settings, topic, timeout_seconds)]
    asked = [TopicPartition(place.topic, place.partition, int(moment * 1000)) for place in places]
    found = {}
    for begin in consumer.offsets_for_times(asked, timeout=timeout_seconds):
        if begin.offset >= 0:
            _, end = consumer.get_watermark_offsets(begin, timeout=timeout_seconds)
            found[begin.topic, begin.partition] = begin.offset, end
    return found


def send(producer: Producer, topic: str, messages: Iterable[tuple[Any, Any]], seconds: float) -> int:
    """Puts messages (key and value) on the topic; returns their number once Kafka has confirmed them all.

    Raises BrokerError where it refuses one, or has not confirmed all `seconds` after the last.
    """
    failures: list[str] = []

    def confirmed(error: Any, message: Message) -> None:
        if error is not None:
            failures.append(f"{sentence(error)} (a message of {len(message.value() or b''):,} bytes)")

    sent = 0
    for key, value in messages:
        sent += 1
        while True:
            try:
                producer.produce(topic, key=key, value=value, on_delivery=confirmed)
                break
            except BufferError:  # the client's queue is full
                producer.poll(0.1)
    left = producer.flush(seconds)
    if left or failures:
        why = failures[0] if failures else f"no confirmation within {seconds:g} s"
        raise BrokerError(
            f"Kafka did not take {left or len(failures)} of {sent} messages for {topic}: {why}; look at its log "
            "(make logs SERVICE=kafka)"
        )
    return sent


def read(
    consumer: Consumer, settings: Settings, ranges: Mapping[tuple[str, int], tuple[int, int]], seconds: float
) -> Iterator[Message]:
    """The messages of each (topic, partition) from its first offset to before its last, of one partition in order.

    Batches that the client cannot read are left out, and what Kafka does not have. Raises BrokerError where it gives
    nothing for `seconds`.
    """
    from confluent_kafka import KafkaError, TopicPartition

    left = {place for place, (begin, end) in ranges.items() if begin < end}
    consumer.assign([TopicPartition(*place, ranges[place][0]) for place in left])
    deadline = time.monotonic() + seconds
    while left:
        if time.monotonic() > deadline:
            raise BrokerError(f"Kafka at {settings.kafka_bootstrap} gives no messages of {sorted(left)}")
        for message in consumer.consume(100, 0.1):
            place, last = (message.topic(), message.partition()), message.offset()
            begin, end = ranges.get(place, (0, 0))
            if message.error() is None:
                if last < begin:  # the offset is no more: Kafka gives the partition from its beginning
                    last = end
                elif place in left and last < end:
                    yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                last = end
            elif (skipped := skip(consumer, settings, message)) is not None:
                last = skipped.last
            else:
                continue
            deadline = time.monotonic() + seconds
            if last + 1 >= end:
                left.discard(place)


def messages_at(
    settings: Settings, topic: str, offsets: Mapping[int, int], timeout_seconds: float
) -> dict[int, Message]:
    """The message at an offset of each partition (partition -> offset), where there is one. Raises BrokerError.

    By a new consumer: a seek of one that already reads takes most of a second.
    """
    places = {(topic, partition): (offset, offset + 1) for partition, offset in offsets.items()}
    with reader(settings) as consumer:
        return {message.partition(): message for message in read(consumer, settings, places, timeout_seconds)}


def no_broker(settings: Settings, error: KafkaException) -> BrokerError:
    """What to raise for this error of a Kafka client."""
    return BrokerError(
        f"Kafka does not answer at {settings.kafka_bootstrap} (FLIGHTS_KAFKA_BOOTSTRAP; {sentence(error)}); look at "
        "its log (make logs SERVICE=kafka)"
    )
