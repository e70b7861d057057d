"""The state that release 0.1.0 left behind (tests/data/make_state.py made it), and its services without Airflow."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from flight_delays.contract import RESPONSE_TOPIC
from flight_delays.settings import PROJECT, Settings
from stack import artifacts, state
from stack.secrets import Secrets, load_secrets
from stack.services import services
from stack.supervisor import Supervisor
from stack.up import finish_restore
from tests.conftest import Stack

ARCHIVE = PROJECT / "tests" / "data" / "state-0.1.0.tar.xz"


def _expected() -> dict[str, Any]:
    with tarfile.open(ARCHIVE) as archive:
        file = archive.extractfile("expected.json")
        assert file is not None
        return json.load(file)


EXPECTED = _expected()
"""What is in it: `answers` by UUID as the web app gave them, `pending` UUIDs, `champion`, `generation`, `distances`."""


def unpack(settings: Settings) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(settings.home, filter="data")
    Path(settings.home / "expected.json").unlink()
    names = (
        "airflow_password",
        "airflow_secret_key",
        "airflow_jwt_secret",
        "airflow_fernet_key",
        "supervisor_password",
    )
    (settings.home / "secrets.json").write_text(json.dumps({name: getattr(Secrets(), name, "old") for name in names}))


@dataclass(frozen=True)
class Line(Stack):
    """The services of the line, without Airflow."""

    def answered_by_the_query(self, topic: str, uuid: str, message: dict[str, Any]) -> dict[str, Any]:
        """Puts a request on the topic and returns the query's own answer, as it is on the response topic."""
        kafka = {"bootstrap.servers": self.settings.kafka_bootstrap}
        consumer = Consumer({**kafka, "group.id": "test", "enable.auto.commit": False})
        parts = [TopicPartition(RESPONSE_TOPIC, n) for n in range(self.settings.topic_partitions)]
        consumer.assign([TopicPartition(p.topic, p.partition, consumer.get_watermark_offsets(p)[1]) for p in parts])
        producer = Producer(kafka)
        producer.produce(topic, key=uuid, value=json.dumps(message))
        assert producer.flush(10) == 0
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                found = consumer.poll(1)
                if found is not None and not found.error() and found.key() == uuid.encode():
                    answer: dict[str, Any] = json.loads(found.value())
                    return answer
        finally:
            consumer.close()
        raise AssertionError(f"the query has not answered {uuid}")


@contextmanager
def running(settings: Settings, *without: str) -> Iterator[Line]:
    """Starts what `make up` starts, but Airflow and these services, and stops it at the end."""
    state.migrate(settings)
    secrets = load_secrets(settings)
    artifacts.fetch(settings)
    supervisor = Supervisor(settings)
    wanted = [each for each in services(settings, secrets) if not each.name.startswith(("airflow", *without))]
    line = Line(settings, supervisor, secrets)
    supervisor.start(wanted)
    try:
        finish_restore(settings, supervisor, wanted)
        for service in wanted:
            line.await_ready(service.name)
        yield line
    finally:
        supervisor.stop()
