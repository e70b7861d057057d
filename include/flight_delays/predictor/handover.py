"""Where a query goes on after another one: behind what was answered, so that it does not answer minutes of it again.

Spark's own way, the same checkpoint, answers again all that came since the last batch was committed: up to
`realtime_batch_seconds` of traffic, during which nobody who asks is answered.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from flight_delays.contract import MAX_KEY_BYTES, MAX_MESSAGE_BYTES, REQUEST_TOPIC
from flight_delays.infra import kafka
from flight_delays.infra.batches import Unreadable, unreadable
from flight_delays.infra.topics import topic_id
from flight_delays.predictor.timeouts import CLOCK_SKEW_SECONDS, ON_DISK_SECONDS, READ_ANSWERS_SECONDS
from flight_delays.predictor.workload import PLACES, read_answer

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

    from flight_delays.predictor.state import Deployment
    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

Offsets = dict[int, int]
"""Partition of the request topic -> offset of the next request."""
Place = tuple[int, int]
"""Partition and offset of a request."""


@dataclass(frozen=True)
class Start:
    """Where a query starts: `offsets` of each partition.

    `answered` are places, also behind it, each with the last answer's timestamp in milliseconds.
    """

    offsets: Offsets
    answered: Mapping[Place, int] = field(default_factory=dict)

    def for_spark(self) -> str:
        """The value of Spark's option `startingOffsets`."""
        return json.dumps({REQUEST_TOPIC: self.offsets})


def recreated(settings: Settings, deployment: Deployment) -> str | None:
    """What to say where the request topic is another one than the deployment reads; None where it is the same.

    Without this, the offsets of the topic that is gone would skip as many requests of the one that is there.
    """
    if not deployment.topic_id or deployment.reads(topic_id(settings, REQUEST_TOPIC)):
        return None
    return (
        f"the topic {REQUEST_TOPIC} was deleted and recreated since deployment {deployment.generation} started; it is "
        "read from the beginning"
    )


def starting_point(settings: Settings, checkpoint: Path | None, topic_since: int = 0) -> Start:
    """Where the successor of the query with this checkpoint starts.

    In each partition that is the first request since the last committed batch that has neither an answer nor a dead
    letter on Kafka, of a deployment from `topic_since` on. What comes after it may be answered twice; the first answer
    stays. The beginning without a checkpoint, or where it tells nothing. Raises BrokerError where Kafka does not
    answer.
    """
    offsets, since = (checkpoint and committed(checkpoint)) or ({}, time.time())
    begin = time.monotonic()
    with kafka.reader(settings) as consumer:
        answered = _answered(consumer, settings, since, topic_since) if offsets else {}
        available = kafka.bounds(consumer, settings, REQUEST_TOPIC)
    behind = first_unanswered(offsets, answered)
    # A broker whose machine lost power, and a recreated topic, use an offset a second time: so the last answered
    # request must be older than its answer.
    last = {
        partition: offset - 1
        for partition, offset in behind.items()
        if (partition, offset - 1) in answered and offset <= available.get(partition, (0, 0))[1]
    }
    requests = kafka.messages_at(settings, REQUEST_TOPIC, last, kafka.ANSWER_SECONDS)
    sure = {partition for partition, request in requests.items() if _is_answered(request, answered)}
    going_on = clamp_offsets({p: offset if p in sure else offsets[p] for p, offset in behind.items()}, available)
    log.info(
        "the last batch was committed at %s; %d were answered since, found in %.1f s: going on at %s",
        *(offsets, len(answered), time.monotonic() - begin, going_on),
    )
    return Start(going_on, answered)


def go_around(settings: Settings, start: Start, known: Container[Place]) -> tuple[Start, list[Unreadable]]:
    """The start behind the last batch of each partition that would end the query, whose reader unpacks them.

    Returns, too, those that are not `known` (partition and first offset): each readable request before them is on the
    topic again, confirmed by Kafka. Requests that were answered stay where they are; the others keep their UUID, so an
    answer to the first of the two stays. Raises BrokerError.
    """
    from confluent_kafka import Producer

    with kafka.reader(settings) as consumer:
        offsets = dict(start.offsets)
        gaps = list(unreadable(settings, REQUEST_TOPIC, offsets))
        new = [gap for gap in gaps if (gap.partition, gap.first) not in known]
        if not gaps:
            return start, new

        def waiting() -> Iterator[tuple[bytes | None, bytes | None]]:
            for gap in gaps:
                begin = offsets[gap.partition] if gap in new else gap.first
                before = {(REQUEST_TOPIC, gap.partition): (begin, gap.first)}
                for request in kafka.read(consumer, settings, before, kafka.ANSWER_SECONDS):
                    if not _is_answered(request, start.answered):
                        yield _cut(request.key(), MAX_KEY_BYTES), _cut(request.value(), MAX_MESSAGE_BYTES)
                offsets[gap.partition] = max(offsets[gap.partition], gap.last + 1)

        options = kafka.producer_options(settings, timeout_seconds=60)
        producer = Producer({**options, "enable.idempotence": True, "queue.buffering.max.kbytes": 64 * 1024})
        sent = kafka.send(producer, REQUEST_TOPIC, waiting(), 90)
    log.warning("%d requests are on the topic again, behind unreadable batches", sent)
    return Start(offsets), new


def _cut(text: bytes | None, limit: int) -> bytes | None:
    """What is too large is rejected as such, by its first bytes, too: as a whole, Kafka might not take it again."""
    return text and text[: limit + 1]


def _is_answered(request: Message, answered: Mapping[Place, int]) -> bool:
    """Whether the request has an answer, and not another one that had its offset before."""
    at = answered.get((request.partition(), request.offset()))
    return at is not None and int(request.timestamp()[1]) <= at + CLOCK_SKEW_SECONDS * 1000


def first_unanswered(offsets: Offsets, answered: Container[Place]) -> Offsets:
    """Each offset moved on over all that were answered, to the first that was not."""
    return {
        partition: next(number for number in count(offset) if (partition, number) not in answered)
        for partition, offset in offsets.items()
    }


def clamp_offsets(offsets: Offsets, available: Mapping[int, tuple[int, int]]) -> Offsets:
    """The offsets for a topic with these first and next offsets: where one is outside, from the partition's beginning.

    That applies to a new partition, to a recreated topic, and where Kafka no longer keeps what was not answered. Spark
    requires an offset for each partition, and for no other.
    """
    return {
        partition: offset if first <= (offset := offsets.get(partition, -1)) <= following else first
        for partition, (first, following) in available.items()
    }


def committed(checkpoint: Path) -> tuple[Offsets, float] | None:
    """The offsets behind the last batch that was committed, and when the next one began (seconds since 1970).

    Before the first commit, those from which the query itself began. A damaged file counts as absent: then from further
    back, at worst None. Layout: Spark's checkpoint folder, `offsets/N` (version, metadata, one line a source),
    `commits/N`.
    """
    commits = sorted((int(file.name) for file in (checkpoint / "commits").glob("[0-9]*")), reverse=True)
    for file in [*(checkpoint / "offsets" / str(batch) for batch in commits), checkpoint / "sources" / "0" / "0"]:
        try:
            found: Mapping[str, int] = json.loads(file.read_text().strip().splitlines()[-1])[REQUEST_TOPIC]
            return {int(partition): int(offset) for partition, offset in found.items()}, file.stat().st_mtime
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("%s does not tell offsets: %s", file, error)
    return None


def _answered(consumer: Consumer, settings: Settings, since: float, topic_since: int) -> dict[Place, int]:
    """The requests answered or rejected since then, as far as read in time, each with its last answer's timestamp."""
    deadline = time.monotonic() + READ_ANSWERS_SECONDS
    latest = int((time.time() - ON_DISK_SECONDS) * 1000)
    found: dict[Place, int] = {}
    answers = kafka.since(consumer, settings, PLACES, since - CLOCK_SKEW_SECONDS, kafka.ANSWER_SECONDS)
    for message in kafka.read(consumer, settings, answers, READ_ANSWERS_SECONDS):
        answer, (_, timestamp) = read_answer(message), message.timestamp()
        if answer and answer.place and answer.deployment >= topic_since and timestamp <= latest:
            found[answer.place] = max(timestamp, found.get(answer.place, 0))
        if time.monotonic() > deadline:
            break
    return found
