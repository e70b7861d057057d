"""What a client may send: the embedded Kafka slows down a flood, but not our own producers."""

from __future__ import annotations

from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from flight_delays.contract import CLIENT_ID
from tests.conftest import Stack

pytestmark = pytest.mark.integration

FLOOD_BYTES = 24 * 1024 * 1024


@pytest.mark.parametrize("client", [CLIENT_ID, "foreign"])
def test_a_flood_is_slowed_down_but_not_our_own_producers(stack: Stack, client: str) -> None:
    throttled: list[float] = []
    servers = {"bootstrap.servers": stack.settings.kafka_bootstrap}
    topic, admin = f"flood-{uuid4()}", AdminClient(servers)
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    producer = Producer(
        {**servers, "client.id": client, "throttle_cb": lambda event: throttled.append(event.throttle_time)}
    )
    for _ in range(FLOOD_BYTES // 100_000):
        producer.produce(topic, b"x" * 100_000)
        producer.poll(0)
    assert producer.flush(120) == 0
    admin.delete_topics([topic])[topic].result(20)
    assert bool(throttled) == (client != CLIENT_ID)
