"""Rejected requests: what was rejected and why, and putting them back on the request topic after a fix."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from flight_delays.contract import REQUEST_TOPIC, read_request
from flight_delays.errors import DataError, ServiceError, problems, sentence
from flight_delays.infra.batches import is_of_a_batch
from flight_delays.infra.printable import one_line

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, Producer
    from pymongo.collection import Collection

    Documents = Collection[dict[str, Any]]

EXAMPLES: Final = 3
LISTED: Final = 100
"""Maximum number of requests that were not replayed in the task's return value; the log has all."""
_BATCH: Final = 100
_KAFKA_SECONDS: Final = 30.0
_READ_ON: Final = 10_000
"""Reading this many messages takes as long as finding another place: half a second."""

log = logging.getLogger("flight_delays.answers.dead_letters")

# --- the report ------------------------------------------------------------------------------------------------------


def report(rejected: Documents, since: dt.datetime) -> dict[str, Any]:
    """What was rejected since then, by reason and field, most frequent first, each with its newest examples.

    Returns `since`, `rejected` and `replayed` (counts) and `groups`; writes them into the log as a table.
    """
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    wanted = ["reason", "field", "UUID", "RejectedAt", "ReplayedAt"]
    for document in rejected.find({"RejectedAt": {"$gte": since}}, wanted).sort("$natural", -1):
        reason, field = str(document.get("reason")), document.get("field") or None
        empty: dict[str, Any] = {"reason": reason, "field": field, "rejected": 0, "replayed": 0, "examples": []}
        group = groups.setdefault((reason, field or ""), empty)
        group["rejected"] += 1
        group["replayed"] += "ReplayedAt" in document
        if len(group["examples"]) < EXAMPLES:
            group["examples"].append(_example(rejected, document))
    summary = {
        "since": since.isoformat(timespec="seconds"),
        "rejected": sum(group["rejected"] for group in groups.values()),
        "replayed": sum(group["replayed"] for group in groups.values()),
        "groups": sorted(groups.values(), key=lambda group: -group["rejected"]),
    }
    log.info("%s", as_text(summary))
    return summary


def _example(rejected: Documents, document: dict[str, Any]) -> dict[str, Any]:
    stored = rejected.find_one({"_id": document["_id"]}, ["payload"]) or {}
    return {
        "id": document["_id"],
        "UUID": document.get("UUID"),
        "RejectedAt": document["RejectedAt"].isoformat(timespec="seconds"),
        "payload": (stored.get("payload") or "")[:500],
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """A report as a table, to be read in a task's log."""
    lines = [f"{summary['rejected']} rejected since {summary['since']}, {summary['replayed']} of them replayed"]
    if summary["groups"]:
        lines.append(f"{'rejected':>9} {'replayed':>9}  {'reason':<16}{'field':<12}")
    for group in summary["groups"]:
        lines.append(
            f"{group['rejected']:>9} {group['replayed']:>9}  {group['reason']:<16}{group['field'] or '':<12}".rstrip()
        )
        lines += [
            f"{'':>22}{example['RejectedAt']} {example['id']} UUID {example['UUID']}: {example['payload'][:160]!r}"
            for example in group["examples"]
        ]
    return "\n".join(map(one_line, lines))


# --- replaying -------------------------------------------------------------------------------------------------------


class NotReplayableError(ValueError):
    """The message cannot be replayed, and why."""


@dataclass(frozen=True)
class Original:
    """A request as it lay on the topic."""

    key: bytes | None
    value: bytes | None


def choose(
    rejected: Documents,
    *,
    since: dt.datetime,
    reasons: Iterable[str] = (),
    uuids: Iterable[str] = (),
    ids: Iterable[str] = (),
    limit: int,
) -> list[dict[str, Any]]:
    """The rejected documents that match every filter given, in the order in which they were rejected.

    `since` counts only where nothing but reasons is given. Raises DataError where no filter is, or where more than
    `limit` match.
    """
    filters: dict[str, Any] = {}
    for name, values in (("reason", list(reasons)), ("UUID", [uuid.lower() for uuid in uuids]), ("_id", list(ids))):
        if values:
            filters[name] = {"$in": values}
    if not filters:
        raise DataError("Choose what to replay: by reasons, uuids or ids")
    if set(filters) == {"reason"}:
        filters["RejectedAt"] = {"$gte": since}
    found = list(rejected.find(filters, ["RejectedAt"]).limit(limit + 1))
    if len(found) > limit:
        raise DataError(f"More than {limit} rejected requests match: choose fewer, or raise the limit")
    ordered = sorted(found, key=lambda document: document["RejectedAt"])
    return [d for chosen in ordered if (d := rejected.find_one({"_id": chosen["_id"]})) is not None]


def replay(
    rejected: Documents,
    chosen: list[dict[str, Any]],
    consumer: Consumer,
    producer: Producer,
    *,
    changes: Mapping[str, Any] | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Puts the chosen requests back on the request topic, with `changes` merged into each message.

    A document gets `ReplayedAt` only after Kafka has confirmed its message; should the process die in between, the
    message may be sent twice, which changes nothing: the first answer stays. Returns `chosen` and `replayed` (counts)
    and `not_replayed` (ids and why). Raises RuntimeError where Kafka does not answer; what was confirmed is marked.
    """
    if changes and "UUID" in changes and len(chosen) > 1:
        raise DataError("changes would give the same UUID to several requests")
    refused: list[dict[str, Any]] = []
    ready: list[tuple[str, Original]] = []
    originals = read_originals(consumer, [place for document in chosen if (place := _place(document)) is not None])
    for document in chosen:
        try:
            if "ReplayedAt" in document and not again:
                raise NotReplayableError(f"was replayed at {document['ReplayedAt']:%Y-%m-%d %H:%M:%S} UTC")
            ready.append((document["_id"], patched(original(document, originals), changes)))
        except NotReplayableError as error:
            refused.append({"id": document["_id"], "UUID": document.get("UUID"), "why": str(error)})
            log.warning("Not replayed: %s: %s", document["_id"], error)
    done = 0
    for begin in range(0, len(ready), _BATCH):
        batch = ready[begin : begin + _BATCH]
        confirmed, failures = _send(producer, batch)
        now = dt.datetime.now(dt.UTC)
        rejected.update_many({"_id": {"$in": confirmed}}, {"$set": {"ReplayedAt": now}})
        done += len(confirmed)
        log.info("%d of %d replayed", done, len(ready))
        if len(confirmed) < len(batch):
            raise ServiceError(f"Kafka did not confirm {len(batch) - len(confirmed)} messages: {failures[:3]}")
    return {"chosen": len(chosen), "replayed": done, "not_replayed": refused[:LISTED]}


def _place(document: Mapping[str, Any]) -> tuple[int, int] | None:
    """Partition and offset on the request topic; None for what the sink rejected, which was no request."""
    if not str(document["_id"]).startswith(f"{REQUEST_TOPIC}-"):
        return None
    return document["partition"], document["offset"]


def read_originals(consumer: Consumer, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Original]:
    """The messages at these partitions and offsets of the request topic; without those that Kafka has no more.

    The consumer joins no group and commits nothing. Raises RuntimeError where Kafka does not answer within 30 s.
    """
    from confluent_kafka import TopicPartition

    partitions = consumer.list_topics(REQUEST_TOPIC, timeout=_KAFKA_SECONDS).topics[REQUEST_TOPIC].partitions
    marks = {p: consumer.get_watermark_offsets(TopicPartition(REQUEST_TOPIC, p), timeout=10) for p in partitions}
    found = {}
    here, position = None, 0
    wanted = set(places)
    for partition, offset in sorted(wanted):
        low, high = marks.get(partition, (0, 0))
        if not low <= offset < high:
            continue
        if here != partition or offset - position > _READ_ON:
            consumer.assign([TopicPartition(REQUEST_TOPIC, partition, offset)])
            here, position = partition, offset
        while position <= offset:
            message = _next(consumer)
            if message.error() is not None:  # an unreadable batch lies before the place, or holds it
                here = None
                if position == offset:
                    break
                consumer.assign([TopicPartition(REQUEST_TOPIC, partition, offset)])
                position = offset
                continue
            position = message.offset() + 1
            if (partition, message.offset()) in wanted:
                found[partition, message.offset()] = Original(message.key(), message.value())
    return found


def _next(consumer: Consumer) -> Message:
    message = consumer.poll(_KAFKA_SECONDS)
    if message is None or (message.error() is not None and not is_of_a_batch(message)):
        raise ServiceError(f"Kafka does not give the original messages: {(message and message.error()) or 'no answer'}")
    return message


def original(document: Mapping[str, Any], originals: Mapping[tuple[int, int], Original]) -> Original:
    """The rejected message: Kafka's, where its checksum is the document's, else the stored payload, where it is whole.

    Raises NotReplayableError where neither is.
    """
    place = _place(document)
    if place is None:
        raise NotReplayableError("was rejected by the sink and is no request")
    checksum = document.get("payload_sha256")
    found = originals.get(place)
    if found is not None and _sha256(found.value) == checksum:
        return found
    stored = document.get("payload")
    value = None if stored is None else stored.encode()
    if checksum is None or _sha256(value) != checksum:
        raise NotReplayableError("Kafka has the message no more, and its stored payload was cut or was no text")
    uuid = document.get("UUID")
    return Original(None if uuid is None else uuid.encode(), value)


def _sha256(value: bytes | None) -> str | None:
    return None if value is None else hashlib.sha256(value).hexdigest()


def patched(message: Original, changes: Mapping[str, Any] | None) -> Original:
    """The message with the changes, which the contract must accept: NotReplayableError where it does not."""
    value = message.value
    if changes:
        try:
            fields = json.loads(value or b"")
        except (ValueError, RecursionError) as error:
            raise NotReplayableError(f"is no JSON that could be changed: {error}") from error
        if not isinstance(fields, dict):
            raise NotReplayableError("is no JSON object that could be changed")
        value = json.dumps(fields | dict(changes)).encode()
    try:
        read_request(value, message.key)
    except ValueError as error:
        why = problems(error) if isinstance(error, ValidationError) else error
        raise NotReplayableError(f"would be rejected again: {why}") from error
    return Original(message.key, value)


def _send(producer: Producer, batch: list[tuple[str, Original]]) -> tuple[list[str], list[str]]:
    """The ids of the documents whose messages Kafka confirmed, and what went wrong with the others."""
    confirmed: list[str] = []
    failures: list[str] = []
    for id_, message in batch:

        def report_delivery(error: Any, _: Any, id_: str = id_) -> None:
            if error is None:
                confirmed.append(id_)
            else:
                failures.append(sentence(error))

        producer.produce(REQUEST_TOPIC, key=message.key, value=message.value, on_delivery=report_delivery)
    producer.flush(_KAFKA_SECONDS)
    return confirmed, failures
