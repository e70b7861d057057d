"""Where a query goes on after another one: behind what was answered, so that it does not answer minutes of it again.

Spark's own way, the same checkpoint, answers again all that came since the last batch was committed: up to
`realtime_batch_seconds` of traffic, during which nobody who asks is answered.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.canary import ends, partitions_of, reader
from flight_delays.contract import DEAD_LETTER_TOPIC, REQUEST_TOPIC, RESPONSE_TOPIC

if TYPE_CHECKING:
    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

Offsets = dict[int, int]
"""Partition of the request topic -> offset of the next request."""

EARLIEST: Final = "earliest"
FROM_THE_BEGINNING: Final = -2
"""Spark's number for it, in JSON."""
READ_SECONDS: Final = 5.0
"""So long are answers read; what is not known by then is answered again."""
_SKEW_SECONDS: Final = 10.0
"""So far may the clocks of the checkpoint's folder and of Spark be apart; where further, more is answered again."""
_PLACES: Final = {
    RESPONSE_TOPIC: ("RequestPartition", "RequestOffset"),
    DEAD_LETTER_TOPIC: ("partition", "offset"),
}
"""Where an answer, and a dead letter, say which request they belong to."""


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
    answered = set(_answered(settings, since, begin + READ_SECONDS))
    behind = behind_answered(offsets, answered)
    going_on = fitting(behind, ends(settings, REQUEST_TOPIC))
    log.info(
        "the last batch was committed at %s; %d were answered since, found in %.1f s: going on at %s",
        *(offsets, len(answered), time.monotonic() - begin, going_on),
    )
    return json.dumps({REQUEST_TOPIC: going_on})


def behind_answered(offsets: Offsets, answered: set[tuple[int, int]]) -> Offsets:
    """Each offset moved on over all that were answered (partition, offset), to the first that was not."""
    return {
        partition: next(number for number in count(offset) if (partition, number) not in answered)
        for partition, offset in offsets.items()
    }


def fitting(offsets: Offsets, ends: list[int]) -> Offsets:
    """The offsets for a topic whose partitions end there: of a new partition, or of one made anew, from its beginning.

    Spark wants an offset for each partition, and for no other.
    """
    return {
        partition: offsets[partition] if offsets.get(partition, end + 1) <= end else FROM_THE_BEGINNING
        for partition, end in enumerate(ends)
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


def _answered(settings: Settings, since: float, deadline: float) -> Iterator[tuple[int, int]]:
    """Partition and offset of the requests that were answered or rejected since then, as far as read in time."""
    from confluent_kafka import TopicPartition

    with reader(settings) as consumer:
        for topic, names in _PLACES.items():
            moment = int((since - _SKEW_SECONDS) * 1000)
            wanted = [TopicPartition(topic, p.partition, moment) for p in partitions_of(consumer, settings, topic)]
            begins = [place for place in consumer.offsets_for_times(wanted, timeout=10) if place.offset >= 0]
            end = ends(settings, topic)
            left = {place.partition for place in begins if place.offset < end[place.partition]}
            consumer.assign([place for place in begins if place.partition in left])
            while left and time.monotonic() < deadline:
                for message in consumer.consume(1000, 0.5):
                    if message.error() is None:
                        if (place := _request_of(message.value(), names)) is not None:
                            yield place
                        if message.offset() >= end[message.partition()] - 1:
                            left.discard(message.partition())


def _request_of(value: bytes | None, names: tuple[str, str]) -> tuple[int, int] | None:
    try:
        fields: dict[str, Any] = json.loads(value or b"null")
        return int(fields[names[0]]), int(fields[names[1]])
    except (ValueError, LookupError, TypeError):
        return None
