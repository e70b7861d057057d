"""Where a query goes on after another one: behind what was answered, so that it does not answer minutes of it again.

Spark's own way, the same checkpoint, answers again all that came since the last batch was committed: up to
`realtime_batch_seconds` of traffic, during which nobody who asks is answered.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Container, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.canary import first_messages, partitions_of, reader
from flight_delays.contract import ANSWER_PLACE, DEAD_LETTER_PLACE, DEAD_LETTER_TOPIC, REQUEST_TOPIC, RESPONSE_TOPIC

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

Offsets = dict[int, int]
"""Partition of the request topic -> offset of the next request."""
Place = tuple[int, int]
"""Partition and offset of a request."""

EARLIEST: Final = "earliest"
FROM_THE_BEGINNING: Final = -2
"""Spark's number for it, in JSON."""
READ_SECONDS: Final = 10.0
"""So long are answers read; what is not known by then is answered again."""
ON_DISK_SECONDS: Final = 3.0
"""An answer counts once it is so old: by then Kafka has it on disk, `log.flush.interval.ms`."""
_SKEW_SECONDS: Final = 10.0
"""So far may clocks be apart: the checkpoint's folder's, Spark's, and of who asks. Where further, it answers again."""
_KAFKA_SECONDS: Final = 10.0
_PLACES: Final = {
    RESPONSE_TOPIC: ANSWER_PLACE,
    DEAD_LETTER_TOPIC: DEAD_LETTER_PLACE,
}


def starting_offsets(settings: Settings, checkpoint: Path) -> str:
    """Where the successor of the query with this checkpoint starts, for Spark's option `startingOffsets`.

    In each partition that is the first request since the last committed batch that has neither an answer nor a dead
    letter on Kafka. What comes after it may be answered twice; the first answer stays. "earliest" where the checkpoint
    tells nothing. Raises canary.BrokerError where Kafka does not answer.
    """
    found = committed(checkpoint)
    if found is None:
        return EARLIEST
    offsets, since = found
    begin = time.monotonic()
    with reader(settings) as consumer:
        answered = _answered(consumer, settings, since)
        places = partitions_of(consumer, settings, REQUEST_TOPIC)
        bounds = [consumer.get_watermark_offsets(place, timeout=_KAFKA_SECONDS) for place in places]
    behind = behind_answered(offsets, answered)
    sure = _still_answered(settings, answered, [(p, offset - 1) for p, offset in behind.items()])
    behind = {p: offset if (p, offset - 1) in sure else offsets[p] for p, offset in behind.items()}
    going_on = fitting(behind, bounds)
    log.info(
        "the last batch was committed at %s; %d were answered since, found in %.1f s: going on at %s",
        *(offsets, len(answered), time.monotonic() - begin, going_on),
    )
    return json.dumps({REQUEST_TOPIC: going_on})


def behind_answered(offsets: Offsets, answered: Container[Place]) -> Offsets:
    """Each offset moved on over all that were answered, to the first that was not."""
    return {
        partition: next(number for number in count(offset) if (partition, number) not in answered)
        for partition, offset in offsets.items()
    }


def fitting(offsets: Offsets, bounds: Sequence[tuple[int, int]]) -> Offsets:
    """The offsets for a topic with these first and next offsets: where one is outside, from the partition's beginning.

    So it is for a new partition, a topic made anew, or where Kafka no longer keeps what was not answered. Spark wants
    an offset for each partition, and for no other.
    """
    return {
        partition: offsets[partition]
        if partition in offsets and first <= offsets[partition] <= following
        else FROM_THE_BEGINNING
        for partition, (first, following) in enumerate(bounds)
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


def _answered(consumer: Consumer, settings: Settings, since: float) -> dict[Place, int]:
    """The requests answered or rejected since then, as far as read in time, each with its last answer's timestamp."""
    from confluent_kafka import TopicPartition

    deadline = time.monotonic() + READ_SECONDS
    moment, latest = int((since - _SKEW_SECONDS) * 1000), int((time.time() - ON_DISK_SECONDS) * 1000)
    places = [place for topic in _PLACES for place in partitions_of(consumer, settings, topic)]
    wanted = [TopicPartition(place.topic, place.partition, moment) for place in places]
    begins = [place for place in consumer.offsets_for_times(wanted, timeout=_KAFKA_SECONDS) if place.offset >= 0]
    end = {
        (place.topic, place.partition): consumer.get_watermark_offsets(place, timeout=_KAFKA_SECONDS)[1]
        for place in begins
    }
    consumer.assign(begins)
    found: dict[Place, int] = {}
    left = {(place.topic, place.partition) for place in begins if place.offset < end[place.topic, place.partition]}
    while left and time.monotonic() < deadline:
        for message in consumer.consume(1000, 0.1):
            if message.error() is not None:
                continue
            _, timestamp = message.timestamp()
            if (place := _request_of(message)) is not None and timestamp <= latest:
                found[place] = max(timestamp, found.get(place, 0))
            source = message.topic(), message.partition()
            if message.offset() >= end[source] - 1:
                left.discard(source)
    return found


def _request_of(message: Message) -> Place | None:
    partition_name, offset_name = _PLACES[message.topic()]
    try:
        fields: Any = json.loads(message.value() or b"null")
        partition, offset = fields[partition_name], fields[offset_name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return (partition, offset) if type(partition) is int and type(offset) is int else None


def _still_answered(settings: Settings, answered: Mapping[Place, int], places: Collection[Place]) -> set[Place]:
    """Those of the places, one a partition at most, whose request of now is older than its answer.

    A broker whose machine lost power, or a topic made anew, gives an offset away for a second time.
    """
    moved = dict(place for place in places if place in answered)
    requests = first_messages(settings, REQUEST_TOPIC, moved, _KAFKA_SECONDS)
    return {
        place
        for place in moved.items()
        if (request := requests.get(place[0])) is not None
        and request.offset() == place[1]
        and request.timestamp()[1] <= answered[place] + _SKEW_SECONDS * 1000
    }
