"""What the topics refuse, on a real Kafka, and which topic it is that bears a name."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from flight_delays.infra import topics
from flight_delays.infra.kafka import ends, messages_at
from flight_delays.infra.topics import ensure_topics, topic_id
from tests.conftest import Stack
from tests.integration.line import create_topic, put_bomb, until

pytestmark = pytest.mark.integration


@pytest.fixture
def admin(stack: Stack) -> AdminClient:
    return AdminClient({"bootstrap.servers": stack.settings.kafka_bootstrap})


@pytest.fixture
def old_topic(stack: Stack, admin: AdminClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A topic that takes batches as they come, as release 0.1.0 created all of them."""
    name = create_topic(stack, "old", 1, compression_type="producer")
    monkeypatch.setattr(topics, "TOPICS", (name,))
    yield name
    admin.delete_topics([name])[name].result(20)


def compression(admin: AdminClient, topic: str) -> str:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    value: str = admin.describe_configs([resource])[resource].result(20)["compression.type"].value
    return value


def test_topics_of_an_earlier_release_get_the_setting(stack: Stack, admin: AdminClient, old_topic: str) -> None:
    assert compression(admin, old_topic) == "producer"
    assert ensure_topics(admin, stack.settings) == []
    assert compression(admin, old_topic) == "uncompressed"


def test_an_external_kafka_is_warned_about_and_not_altered(
    stack: Stack, admin: AdminClient, old_topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    external = stack.settings.model_copy(update={"kafka_bootstrap": f"localhost:{stack.settings.port_kafka}"})
    with caplog.at_level(logging.WARNING):
        ensure_topics(admin, external)
    assert compression(admin, old_topic) == "producer"
    assert f"--entity-name {old_topic} --add-config compression.type=uncompressed" in caplog.text


@pytest.mark.parametrize("claimed", [1, 2**62])
def test_a_records_time_is_the_brokers(claimed: int, stack: Stack, admin: AdminClient, old_topic: str) -> None:
    ensure_topics(admin, stack.settings)
    producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap})

    def taken() -> bool:  # the broker takes a changed setting up a moment later
        errors: list[object] = []
        producer.produce(old_topic, b"{}", timestamp=claimed, on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(15) == 0
        end = ends(stack.settings, old_topic)[0]
        if errors != [None]:
            return False
        kind, milliseconds = messages_at(stack.settings, old_topic, {0: end - 1}, 20)[0].timestamp()
        return kind == TIMESTAMP_LOG_APPEND_TIME and abs(milliseconds / 1000 - time.time()) < 60

    until(taken, 20, "the broker's time")


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_compressed_record_of_150_megabytes_is_refused(
    codec: str, stack: Stack, admin: AdminClient, old_topic: str
) -> None:
    ensure_topics(admin, stack.settings)
    assert put_bomb(stack, old_topic, codec)[0] == {KafkaError.MSG_SIZE_TOO_LARGE}
    assert put_bomb(stack, old_topic, codec, 400)[0] == {None}


def test_five_compressed_batches_of_360_megabytes_at_once_do_not_end_the_broker(
    stack: Stack, admin: AdminClient, old_topic: str
) -> None:
    ensure_topics(admin, stack.settings)
    broker = stack.supervisor.states()["kafka"]["pid"]
    results: list[set[int | None]] = []
    senders = [
        threading.Thread(target=lambda: results.append(put_bomb(stack, old_topic, size=900_000, count=400)[0]))
        for _ in range(5)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert len(results) == 5
    assert None not in set().union(*results)
    assert put_bomb(stack, old_topic, size=400)[0] == {None}
    assert stack.supervisor.states()["kafka"]["pid"] == broker


def test_a_recreated_topic_has_another_id(stack: Stack, admin: AdminClient, old_topic: str) -> None:
    before = topic_id(stack.settings, old_topic)
    assert before
    assert topic_id(stack.settings, old_topic) == before
    admin.delete_topics([old_topic])[old_topic].result(20)
    admin.create_topics([NewTopic(old_topic, 1, 1)])[old_topic].result(20)
    until(lambda: old_topic in admin.list_topics(timeout=10).topics, 20, "the new topic")
    assert topic_id(stack.settings, old_topic) not in ("", before)
