"""Canaries: requests of our own that go the whole way, one for each partition, to prove that predictions come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flight_delays.contract import REQUEST_TOPIC, RESPONSE_TOPIC
from flight_delays.errors import CanaryError
from flight_delays.infra.batches import skip
from flight_delays.infra.kafka import ends, partition_of, partitions_of, producer_options, reader, send
from flight_delays.predictor.timeouts import PROBE_QUERY_SECONDS
from flight_delays.predictor.workload import canary_message, find_canary, read_answer

if TYPE_CHECKING:
    from pymongo.database import Database

    from flight_delays.settings import Settings


def canary_ids(partitions: int) -> list[str]:
    """New UUIDs, one for each partition in order: the i-th one's hash leads to partition i."""
    found: dict[int, str] = {}
    while len(found) < partitions:
        uuid = str(uuid4())
        found.setdefault(partition_of(uuid, partitions), uuid)
    return [found[partition] for partition in range(partitions)]


def canary_messages(uuids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key and value of each canary, as the Kafka provider's produce operator wants them."""
    yield from ((uuid, canary_message(uuid)) for uuid in uuids)


def send_canaries(settings: Settings) -> list[str]:
    """Puts one canary on each partition of the request topic; returns their UUIDs once Kafka has confirmed them.

    Raises BrokerError where Kafka does not answer, or does not confirm within 10 s.
    """
    from confluent_kafka import Producer

    # Not idempotent: a canary may come twice, and getting a producer's id takes half a second.
    producer = Producer({**producer_options(settings, timeout_seconds=10), "linger.ms": 0})
    uuids = canary_ids(len(partitions_of(producer, settings, REQUEST_TOPIC)))
    send(producer, REQUEST_TOPIC, canary_messages(uuids), 12)
    return uuids


def prove(
    settings: Settings,
    deployment: int,
    timeout_seconds: float,
    unhealthy_reason: Callable[[], str | None] = lambda: None,
) -> list[str]:
    """Sends canaries and waits until `deployment` has answered each of them on the response topic.

    Returns their UUIDs. A partition's timeout starts again with each answer of `deployment` to any request in it: what
    was asked before the canary comes first, after an outage thousands. `unhealthy_reason` is asked every few seconds.
    Raises BrokerError where Kafka does not answer, CanaryError with the reason, or, naming the partitions, when nothing
    came for `timeout_seconds`.
    """
    from confluent_kafka import TopicPartition

    before = [TopicPartition(RESPONSE_TOPIC, i, offset) for i, offset in enumerate(ends(settings, RESPONSE_TOPIC))]
    with reader(settings) as consumer:
        consumer.assign(before)
        uuids = send_canaries(settings)
        probed = time.monotonic()
        waiting: dict[str | None, int] = {uuid: partition for partition, uuid in enumerate(uuids)}
        deadlines = dict.fromkeys(waiting.values(), probed + timeout_seconds)
        while waiting:
            message = consumer.poll(0.2)
            if message is not None and skip(consumer, settings, message) is None:
                answer = read_answer(message)
                if answer and answer.uuid and answer.deployment == deployment:
                    waiting.pop(answer.uuid, None)
                    deadlines[answer.partition] = time.monotonic() + timeout_seconds
            if time.monotonic() > probed + PROBE_QUERY_SECONDS:
                if (reason := unhealthy_reason()) is not None:
                    raise CanaryError(reason)
                probed = time.monotonic()
            silent = sorted(number for number in waiting.values() if time.monotonic() > deadlines[number])
            if silent:
                raise CanaryError(
                    f"deployment {deployment} has not answered the canaries of partition "
                    f"{', '.join(map(str, silent))} within {timeout_seconds:g} s; look at the log of spark-connect "
                    "(make logs SERVICE=spark-connect)"
                )
        return uuids


def await_canaries(
    db: Database[dict[str, Any]], uuids: Sequence[str], deployment: int, timeout_seconds: float
) -> float:
    """Waits until `deployment`'s answer to each canary is in MongoDB; returns the seconds that took.

    Raises CanaryError, naming the partitions without an answer, when `timeout_seconds` have passed.
    """
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
