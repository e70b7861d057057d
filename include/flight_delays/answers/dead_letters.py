"""Rejected requests: what was rejected and why, and putting them back on the request topic after a fix."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import ValidationError

from flight_delays.contract import REQUEST_TOPIC, read_request
from flight_delays.errors import DataError, problems
from flight_delays.infra.kafka import bounds, read, reader, send
from flight_delays.infra.printable import one_line

if TYPE_CHECKING:
    from confluent_kafka import Producer
    from pymongo.collection import Collection

    from flight_delays.settings import Settings

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
            stored = rejected.find_one({"_id": document["_id"]}, ["payload"]) or {}
            example = {"id": document["_id"], "UUID": document.get("UUID")}
            example["RejectedAt"] = document["RejectedAt"].isoformat(timespec="seconds")
            group["examples"].append(example | {"payload": (stored.get("payload") or "")[:500]})
    summary = {
        "since": since.isoformat(timespec="seconds"),
        "rejected": sum(group["rejected"] for group in groups.values()),
        "replayed": sum(group["replayed"] for group in groups.values()),
        "groups": sorted(groups.values(), key=lambda group: -group["rejected"]),
    }
    log.info("%s", as_text(summary))
    return summary


def as_text(summary: Mapping[str, Any]) -> str:
    """A report, to be read in a task's log."""
    lines = [f"{summary['rejected']} rejected since {summary['since']}, {summary['replayed']} of them replayed"]
    for group in summary["groups"]:
        what = f"{group['reason']} {group['field'] or ''}".strip()
        lines.append(f"{group['rejected']:>9} {what}, {group['replayed']} of them replayed")
        lines += [
            f"{'':>10}{example['RejectedAt']} {example['id']} UUID {example['UUID']}: {example['payload'][:160]!r}"
            for example in group["examples"]
        ]
    return "\n".join(map(one_line, lines))


# --- replaying -------------------------------------------------------------------------------------------------------


class NotReplayableError(ValueError):
    """The message cannot be replayed, and why."""


class Original(NamedTuple):
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
    found = list(rejected.find(filters).limit(limit + 1))
    if len(found) > limit:
        raise DataError(f"More than {limit} rejected requests match: choose fewer, or raise the limit")
    return sorted(found, key=lambda document: document["RejectedAt"])


def replay(
    rejected: Documents,
    chosen: list[dict[str, Any]],
    settings: Settings,
    producer: Producer,
    *,
    changes: Mapping[str, Any] | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Puts the chosen requests back on the request topic, with `changes` merged into each message.

    Documents get `ReplayedAt` only after Kafka has confirmed their messages, 100 at a time; should the process die in
    between, these may be sent twice, which changes nothing: the first answer stays. Returns `chosen` and `replayed`
    (counts) and `not_replayed` (ids and why). Raises BrokerError where Kafka does not answer.
    """
    if changes and "UUID" in changes and len(chosen) > 1:
        raise DataError("changes would give the same UUID to several requests")
    refused: list[dict[str, Any]] = []
    ready: dict[str, Original] = {}
    originals = read_originals(settings, {place for document in chosen if (place := _place(document)) is not None})
    for document in chosen:
        try:
            if "ReplayedAt" in document and not again:
                raise NotReplayableError(f"was replayed at {document['ReplayedAt']:%Y-%m-%d %H:%M:%S} UTC")
            ready[document["_id"]] = patched(original(document, originals), changes)
        except NotReplayableError as error:
            refused.append({"id": document["_id"], "UUID": document.get("UUID"), "why": str(error)})
            log.warning("Not replayed: %s: %s", document["_id"], error)
    ids = list(ready)
    for batch in (ids[begin : begin + _BATCH] for begin in range(0, len(ids), _BATCH)):
        send(producer, REQUEST_TOPIC, [ready[id_] for id_ in batch], _KAFKA_SECONDS)
        rejected.update_many({"_id": {"$in": batch}}, {"$set": {"ReplayedAt": dt.datetime.now(dt.UTC)}})
    log.info("%d of %d replayed", len(ready), len(chosen))
    return {"chosen": len(chosen), "replayed": len(ready), "not_replayed": refused[:LISTED]}


def _place(document: Mapping[str, Any]) -> tuple[int, int] | None:
    """Partition and offset on the request topic; None for what the sink rejected, which was no request."""
    if not str(document["_id"]).startswith(f"{REQUEST_TOPIC}-"):
        return None
    return document["partition"], document["offset"]


def read_originals(settings: Settings, places: Set[tuple[int, int]]) -> dict[tuple[int, int], Original]:
    """The messages at these partitions and offsets of the request topic; without those that Kafka has no more.

    Raises BrokerError where Kafka does not answer within 30 s.
    """
    found = {}
    with reader(settings) as consumer:
        there = bounds(consumer, settings, REQUEST_TOPIC)
        runs: list[tuple[int, int, int]] = []
        for partition, offset in sorted(places):
            low, high = there.get(partition, (0, 0))
            if low <= offset < high:
                last = runs.pop() if runs and runs[-1][0] == partition and offset < runs[-1][2] + _READ_ON else None
                runs.append((partition, last[1] if last else offset, offset + 1))
        for partition, begin, end in runs:
            for message in read(consumer, settings, {(REQUEST_TOPIC, partition): (begin, end)}, _KAFKA_SECONDS):
                if (partition, message.offset()) in places:
                    found[partition, message.offset()] = Original(message.key(), message.value())
    return found


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
