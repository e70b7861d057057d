"""Canaries: requests of our own that go the whole way, one for each partition, to prove that predictions come back."""

from __future__ import annotations

import datetime as dt
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from flight_delays.batches import is_of_a_batch, skip
from flight_delays.contract import REQUEST_TOPIC, RESPONSE_TOPIC, read_fields
from flight_delays.errors import BrokerError, CanaryError, sentence
from flight_delays.features import date_parts

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient
    from pymongo.database import Database

    from flight_delays.settings import Settings

PARTITIONER: Final = "consistent"
"""librdkafka's name for CRC32 of the key modulo the number of partitions."""

_ASK_SECONDS: Final = 3.0
"""How often `prove` asks whether the query that it waits for still lives."""

FLIGHT: Final = {
    "Carrier": "UA",
    "FlightDate": "2013-12-20",
    "FlightNum": "1",
    "Origin": "EWR",
    "Dest": "SFO",
    "DepDelay": 5.0,
    "Distance": 2565.0,
}
"""A flight of a route that the training data know."""


def partition_of(key: str, partitions: int) -> int:
    """The partition that the `PARTITIONER` of every producer here chooses for a key."""
    return zlib.crc32(key.encode()) % partitions


def canary_ids(partitions: int) -> list[str]:
    """New UUIDs, one for each partition in order: the i-th one's hash leads to partition i."""
    found: dict[int, str] = {}
    while len(found) < partitions:
        uuid = str(uuid4())
        found.setdefault(partition_of(uuid, partitions), uuid)
    return [found[partition] for partition in range(partitions)]


def canary_messages(uuids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key and value of each canary, as the Kafka provider's produce operator wants them."""
    parts = date_parts(dt.date.fromisoformat(str(FLIGHT["FlightDate"])))
    for uuid in uuids:
        now = dt.datetime.now(dt.UTC).isoformat()
        yield uuid, json.dumps({"UUID": uuid, "Timestamp": now, **FLIGHT, **parts._asdict(), "Canary": True})


def all_answered(message: Message, waiting: list[str], deployment: int) -> list[str] | None:
    """For the Kafka provider's await-message sensor: truthy once each canary in `waiting` was answered.

    The sensor's trigger hands in the same list for every message of its consumer, and starts anew with the full list
    (and from the same offsets, as it commits none) where the triggerer restarts: so the list may be used up here.
    """
    uuid, _ = _answered(message, deployment) or ("", 0)
    if uuid in waiting:
        waiting.remove(uuid)
        return None if waiting else ["all canaries answered"]
    return None


def send_canaries(settings: Settings) -> list[str]:
    """Puts one canary on each partition of the request topic; returns their UUIDs once Kafka has confirmed them.

    Raises BrokerError where Kafka does not answer, or does not confirm within 10 s.
    """
    from confluent_kafka import Producer

    failures: list[str] = []

    def confirmed(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(sentence(error))

    # Not idempotent: a canary may come twice, and getting a producer's id takes half a second.
    producer = Producer({**_client(settings), "partitioner": PARTITIONER, "message.timeout.ms": 10_000, "linger.ms": 0})
    uuids = canary_ids(len(partitions_of(producer, settings, REQUEST_TOPIC)))
    for key, value in canary_messages(uuids):
        producer.produce(REQUEST_TOPIC, key=key, value=value, on_delivery=confirmed)
    left = producer.flush(12)
    if left or failures:
        raise BrokerError(
            f"Kafka at {settings.kafka_bootstrap} did not take the canaries ({'; '.join(failures) or 'no answer'}): "
            "look at its log (make logs SERVICE=kafka)"
        )
    return uuids


def ends(settings: Settings, topic: str) -> list[int]:
    """The offset at which each partition of the topic ends, in their order. Raises BrokerError."""
    with reader(settings) as consumer:
        places = partitions_of(consumer, settings, topic)
        return [consumer.get_watermark_offsets(place, timeout=10)[1] for place in places]


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


@contextmanager
def reader(settings: Settings) -> Iterator[Consumer]:
    """A consumer that reads at places of its own: no group has to form before it does, and it commits nothing.

    Raises BrokerError where the broker does not answer what is asked within.
    """
    from confluent_kafka import Consumer, KafkaException

    options = {"group.id": "flight_delay_predictor", "enable.auto.commit": False, "fetch.wait.max.ms": 50}
    options |= {"auto.offset.reset": "earliest"}  # where Kafka has just removed what was to be read
    consumer = Consumer({**_client(settings), **options})
    try:
        yield consumer
    except KafkaException as error:
        raise no_broker(settings, error) from error
    finally:
        consumer.close()


def first_messages(
    settings: Settings, topic: str, offsets: Mapping[int, int], timeout_seconds: float
) -> dict[int, Message]:
    """The first message from an offset on, for each partition (partition -> offset); none where it comes too late.

    All in one assignment of a new consumer: to go to another place takes one that reads already the better part of a
    second. Raises BrokerError.
    """
    from confluent_kafka import TopicPartition

    found: dict[int, Message] = {}
    if not offsets:
        return found
    deadline = time.monotonic() + timeout_seconds
    with reader(settings) as consumer:
        consumer.assign([TopicPartition(topic, *place) for place in offsets.items()])
        while len(found) < len(offsets) and (left := deadline - time.monotonic()) > 0:
            if (message := consumer.poll(left)) is not None and message.error() is None:
                found.setdefault(message.partition(), message)
    return found


def prove(
    settings: Settings,
    deployment: int,
    timeout_seconds: float,
    illness: Callable[[], str | None] = lambda: None,
) -> tuple[list[str], float]:
    """Sends canaries and waits until `deployment` has answered each of them on the response topic.

    Returns their UUIDs and the seconds that took. A partition's time runs anew with each answer of `deployment` to any
    request in it: what was asked before the canary comes first, after an outage thousands. `illness` is asked every few
    seconds whether there is any point in waiting. Raises BrokerError where Kafka does not answer, CanaryError with the
    illness, or, naming the partitions, when nothing came for `timeout_seconds`.
    """
    from confluent_kafka import TopicPartition

    before = [TopicPartition(RESPONSE_TOPIC, i, offset) for i, offset in enumerate(ends(settings, RESPONSE_TOPIC))]
    with reader(settings) as consumer:
        consumer.assign(before)
        uuids = send_canaries(settings)
        begin = time.monotonic()
        waiting = {uuid: partition for partition, uuid in enumerate(uuids)}
        deadlines = dict.fromkeys(waiting.values(), begin + timeout_seconds)
        asked = begin
        while waiting:
            message = consumer.poll(0.2)
            if message is not None and is_of_a_batch(message):
                skip(consumer, settings, message)
            elif message is not None and (answered := _answered(message, deployment)) is not None:
                uuid, partition = answered
                waiting.pop(uuid, None)
                if partition in deadlines:
                    deadlines[partition] = time.monotonic() + timeout_seconds
            if time.monotonic() > asked + _ASK_SECONDS:
                if (reason := illness()) is not None:
                    raise CanaryError(reason)
                asked = time.monotonic()
            silent = sorted(number for number in waiting.values() if time.monotonic() > deadlines[number])
            if silent:
                raise CanaryError(
                    f"deployment {deployment} has not answered the canaries of partition "
                    f"{', '.join(map(str, silent))} within {timeout_seconds:g} s; look at the log of spark-connect "
                    "(make logs SERVICE=spark-connect)"
                )
        return uuids, time.monotonic() - begin


def no_broker(settings: Settings, error: KafkaException) -> BrokerError:
    """What to raise for this error of a Kafka client."""
    return BrokerError(
        f"Kafka does not answer at {settings.kafka_bootstrap} (FLIGHTS_KAFKA_BOOTSTRAP; {sentence(error)}); look at "
        "its log (make logs SERVICE=kafka)"
    )


def _client(settings: Settings) -> dict[str, Any]:
    return {"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0}


def _answered(message: Message, deployment: int) -> tuple[str, int] | None:
    """UUID and partition of the request that `deployment` answers with this message; None where it does not.

    Anybody may write to the response topic: what is no answer of ours must neither stop nor prove anything.
    """
    fields = read_fields(message.value()) if message.error() is None else {}
    uuid, number, partition = (fields.get(name) for name in ("UUID", "Deployment", "RequestPartition"))
    ours = type(uuid) is str and type(partition) is int and type(number) is int and number == deployment
    return (uuid, partition) if ours else None  # type: ignore[return-value]


def await_canaries(
    db: Database[dict[str, Any]], uuids: Sequence[str], deployment: int, timeout_seconds: float
) -> float:
    """Waits until `deployment`'s answer to each canary is in MongoDB; returns the seconds that took.

    Raises CanaryError, naming the partitions without an answer, when `timeout_seconds` have passed.
    """
    from flight_delays.store import find_canary

    begin = time.monotonic()
    missing = dict(enumerate(uuids))
    while True:
        missing = {i: uuid for i, uuid in missing.items() if find_canary(db, uuid, deployment) is None}
        waited = time.monotonic() - begin
        if not missing:
            return waited
        if waited > timeout_seconds:
            raise CanaryError(
                f"no answer of deployment {deployment} in MongoDB after {waited:.0f} s for the canaries of partition "
                f"{', '.join(map(str, missing))}; look at the logs of spark-connect and sink (`make logs`)"
            )
        time.sleep(0.05)
