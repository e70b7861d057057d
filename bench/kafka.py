"""Straight onto the topics and off them: bursts, counting what was answered again, and Kafka's own round trip."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.traffic import FIELDS, records_flights
from flight_delays.contract import CLIENT_ID, REQUEST_TOPIC
from flight_delays.infra.kafka import PARTITIONER
from flight_delays.settings import Settings

Offsets = dict[int, int]
"""Partition -> offset of the next message."""

DURABLE: dict[str, Any] = {
    "client.id": CLIENT_ID,
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": PARTITIONER,
    "linger.ms": 0,
}
"""What every producer of the product sets."""


def requests(records: Path) -> Iterator[tuple[str, str]]:
    """UUIDs and messages of real flights, as the web app sends them, without end."""
    for flight in records_flights(records, fields=(*FIELDS, "Distance")):
        numbers = {name: float(flight[name]) for name in ("DepDelay", "Distance")}
        uuid, now = str(uuid4()), dt.datetime.now(dt.UTC).isoformat()
        yield uuid, json.dumps({"UUID": uuid, "Timestamp": now, **flight, **numbers})


class Kafka:
    """A client of the installation's broker that belongs to no consumer group."""

    def __init__(self, settings: Settings) -> None:
        self._servers = {"bootstrap.servers": settings.kafka_bootstrap}
        self._consumer = Consumer(
            {**self._servers, "group.id": "bench", "enable.auto.commit": False, "fetch.queue.backoff.ms": 20}
        )

    def ends(self, topic: str) -> Offsets:
        """Where the topic's partitions end now."""
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return {p: self._consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in partitions}

    def read(self, topic: str, begin: Offsets, end: Offsets) -> Iterator[Message]:
        """The messages between two places."""
        left = {partition for partition, offset in end.items() if offset > begin[partition]}
        self._consumer.assign([TopicPartition(topic, partition, begin[partition]) for partition in left])
        while left:
            for message in self._consumer.consume(1000, 5):
                if message.error() is None and message.offset() < end[message.partition()]:
                    yield message
                    if message.offset() == end[message.partition()] - 1:
                        left.remove(message.partition())
        self._consumer.unassign()

    def put(self, messages: Iterable[tuple[str, str]], topic: str = REQUEST_TOPIC) -> None:
        """Puts keys and values on a topic, all at once. Raises RuntimeError where Kafka does not take them in 60 s."""
        producer = Producer({**self._servers, **DURABLE, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
        for key, value in messages:
            producer.produce(topic, key=key, value=value)
        if left := producer.flush(60):
            raise RuntimeError(f"Kafka did not take {left} messages")

    def round_trips(self, count: int) -> list[float]:
        """Seconds from produce to consumed, one message of a request's size after the other, on a topic of its own."""
        topic = f"bench-{uuid4()}"
        admin = AdminClient(self._servers)
        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])[topic].result(10)
        producer = Producer({**self._servers, **DURABLE, "socket.nagle.disable": True})
        consumer = Consumer({**self._servers, "group.id": "bench", "enable.auto.commit": False})
        consumer.assign([TopicPartition(topic, 0, 0)])
        found = []
        for number in range(count + 20):  # the first ones find the clients still connecting
            begin = time.perf_counter()
            producer.produce(topic, value=b"x" * 400)
            producer.poll(0)
            message = consumer.poll(10)
            if message is None or message.error() is not None:
                raise RuntimeError(f"Kafka did not return a message: {message and message.error()}")
            if number >= 20:
                found.append(time.perf_counter() - begin)
        producer.flush(10)
        consumer.close()
        admin.delete_topics([topic])[topic].result(10)
        return found

    def close(self) -> None:
        """Ends the client."""
        self._consumer.close()
