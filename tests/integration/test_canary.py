"""Canaries on a real Kafka, with topics of their own: whatever else lies on the response topic neither stops nor
proves anything."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import Producer

from flight_delays.contract import ANSWER_PLACE
from flight_delays.errors import CanaryError
from flight_delays.infra.kafka import ends, messages_at
from flight_delays.predictor import canary, workload
from tests.conftest import Stack
from tests.integration.line import compressed, create_topic, put_bomb, until

pytestmark = pytest.mark.integration

DEPLOYMENT = 1
FOREIGN: list[bytes | None] = [
    None,
    b"",
    b"\xff\xfe",
    b"[]",
    b"7",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"Deployment": 1' + b"0" * 5_000 + b"}",
    b'{"Deployment": 1}',
    b'{"Deployment": NaN, "UUID": "x", "RequestPartition": 0}',
    b'{"Deployment": [1], "UUID": "x", "RequestPartition": 0}',
    b'{"Deployment": 1, "UUID": ["x"], "RequestPartition": 0}',
    b'{"Deployment": 1, "UUID": {"x": 1}, "RequestPartition": 0}',
    *(
        b'{"Deployment": 1, "UUID": "x", "RequestPartition": ' + value + b"}"
        for value in (b"[0]", b'{"a": 1}', b"-1", b"1e999", b'"0"', b"true", b"null", b"1" * 30)
    ),
]


class Topics:
    """A request and a response topic, and who answers on them."""

    def __init__(self, stack: Stack) -> None:
        self._settings = stack.settings
        self.request, self.response = create_topic(stack, "request"), create_topic(stack, "response")
        self._producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap})

    def answer(self, *values: bytes | None, key: bytes | None = None) -> None:
        for value in values:
            self._producer.produce(self.response, value, key=key)
        assert self._producer.flush(10) == 0

    def canaries(self, proof: Future[list[str]]) -> list[str]:
        """The UUIDs of the canaries on the request topic, once there is one in each partition."""
        until(lambda: proof.done() or min(ends(self._settings, self.request)) > 0, 20, "the canaries")
        if proof.done():
            proof.result()  # raises why there are none
        found = messages_at(self._settings, self.request, {0: 0, 1: 0}, 20)
        return [json.loads(found[partition].value() or b"")["UUID"] for partition in (0, 1)]


@pytest.fixture
def topics(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Topics:
    found = Topics(stack)
    monkeypatch.setattr(canary, "REQUEST_TOPIC", found.request)
    monkeypatch.setattr(canary, "RESPONSE_TOPIC", found.response)
    monkeypatch.setattr(workload, "PLACES", {found.response: ANSWER_PLACE})
    return found


def fields(uuid: str, partition: int, **changes: Any) -> bytes:
    return json.dumps({"UUID": uuid, "Deployment": DEPLOYMENT, "RequestPartition": partition} | changes).encode()


def test_whatever_lies_among_the_answers_the_canaries_come_back(stack: Stack, topics: Topics) -> None:
    with ThreadPoolExecutor() as threads:
        proof = threads.submit(canary.prove, stack.settings, DEPLOYMENT, 30)
        uuids = topics.canaries(proof)
        topics.answer(*FOREIGN)
        topics.answer(*FOREIGN, key=b"\xff")
        topics.answer(*(fields(uuid, partition) for partition, uuid in enumerate(uuids)))
        assert proof.result() == uuids


def test_a_batch_that_cannot_be_read_among_the_answers_hides_none(stack: Stack, topics: Topics) -> None:
    with ThreadPoolExecutor() as threads, compressed(stack, topics.response):
        proof = threads.submit(canary.prove, stack.settings, DEPLOYMENT, 30)
        uuids = topics.canaries(proof)
        for partition in (0, 1):
            put_bomb(stack, topics.response, partition=partition)
        topics.answer(*(fields(uuid, partition) for partition, uuid in enumerate(uuids)))
        assert proof.result() == uuids


def test_an_answer_of_nobody_proves_nothing(stack: Stack, topics: Topics) -> None:
    with ThreadPoolExecutor() as threads:
        proof = threads.submit(canary.prove, stack.settings, DEPLOYMENT, 4)
        for partition, uuid in enumerate(topics.canaries(proof)):
            topics.answer(fields(uuid, partition, Deployment=True), fields(uuid, partition, Deployment="1"))
        with pytest.raises(CanaryError, match="partition 0, 1"):
            proof.result()
