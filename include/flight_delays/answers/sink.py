"""The sink: stores responses and dead letters in MongoDB. A service: `python -m flight_delays.answers.sink`.

Delivery through Kafka is at least once and every insert is harmless when repeated (`_id` decides, the first answer
stays), so all that keeps a message from being lost is the order: write first, commit the offset afterwards. A message
that cannot be stored becomes a rejected document, and the rest goes on; while MongoDB is away the sink tries again
without a limit.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bson
from bson.raw_bson import RawBSONDocument
from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import ValidationError
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure, PyMongoError

from flight_delays import contract
from flight_delays.answers.store import expire_canaries
from flight_delays.contract import DEAD_LETTER_TOPIC, REQUEST_TOPIC, RESPONSE_TOPIC, Collection, is_uuid, rejected_id
from flight_delays.errors import BrokerError, problems, sentence
from flight_delays.infra.batches import is_of_a_batch, skip
from flight_delays.infra.kafka import client_options
from flight_delays.infra.mongo import connect, ensure_indexes
from flight_delays.infra.printable import log_to_stderr
from flight_delays.infra.topics import ensure_topics
from flight_delays.predictor.workload import canary_id
from flight_delays.settings import Settings, get_settings

if TYPE_CHECKING:
    from pymongo.database import Database

GROUP = "flight-delays-sink"
TOPICS = [RESPONSE_TOPIC, DEAD_LETTER_TOPIC]

_MAX_DOCUMENT_BYTES = 16 * 1024 * 1024  # MongoDB's limit
_DUPLICATE_KEY = 11000
_LATEST_MILLISECONDS = int(dt.datetime(2100, 1, 1, tzinfo=dt.UTC).timestamp() * 1000)
_IDENTITY = ("payload_sha256", "UUID", "detail")  # what tells two rejections of one place apart
_EXPIRY_INTERVAL_SECONDS = 600.0
_LONGEST_BACKOFF_SECONDS = 5.0

log = logging.getLogger("flight_delays.answers.sink")


@dataclass(frozen=True)
class Entry:
    """A message as it will be stored."""

    collection: Collection
    id: str
    bson: bytes
    message: Message


# --- from message to document ------------------------------------------------------------------------------------


def entry(message: Message) -> Entry:
    """The document for a message of either topic; for one that cannot be stored, the document that says so."""
    value = message.value()
    if not value:
        return reject(message, "the message is empty")
    try:
        if message.topic() == RESPONSE_TOPIC:
            collection, document = _answer(contract.Response.model_validate_json(value), _kafka_time(message))
        else:
            letter = contract.DeadLetter.model_validate_json(value)
            collection, document = Collection.REJECTED, _rejection(letter, _kafka_time(message))
        encoded = bson.encode(document)
    except ValidationError as error:
        return reject(message, problems(error))
    except (bson.errors.BSONError, OverflowError, UnicodeError) as error:  # e.g. an integer beyond 64 bits
        return reject(message, f"not a BSON document: {error}")
    if len(encoded) > _MAX_DOCUMENT_BYTES:
        return reject(message, f"a document of {len(encoded)} bytes, above MongoDB's {_MAX_DOCUMENT_BYTES}")
    return Entry(collection, document["_id"], encoded, message)


def _answer(response: contract.Response, predicted_at: dt.datetime) -> tuple[Collection, dict[str, Any]]:
    document = {
        "_id": response.UUID,
        **response.model_dump(exclude_none=True),
        "Timestamp": contract.parse_timestamp(response.Timestamp),
        "FlightDate": dt.datetime.combine(dt.date.fromisoformat(response.FlightDate), dt.time(), dt.UTC),
        "PredictedAt": predicted_at,
    }
    if response.RequestedAt is not None:
        document["RequestedAt"] = contract.parse_timestamp(response.RequestedAt)
    if response.Canary:
        return Collection.CANARIES, {**document, "_id": canary_id(response.UUID, response.Deployment)}
    return Collection.RESPONSES if response.Replay is None else Collection.REPLAYS, document


def _rejection(letter: contract.DeadLetter, rejected_at: dt.datetime) -> dict[str, Any]:
    document = {
        "_id": rejected_id(REQUEST_TOPIC, letter.partition, letter.offset),
        **letter.model_dump(exclude_none=True),
        "RejectedAt": rejected_at,
    }
    if letter.UUID is not None and is_uuid(letter.UUID):
        document["UUID"] = letter.UUID.lower()  # as it is looked up
    return document


def reject(message: Message, problem: str) -> Entry:
    """The rejected document for a message of the sink's own topics; its `_id` names that topic, not the requests'.

    For an error in place of a batch, the document of that batch.
    """
    no_message = message.error() is not None
    value = b"" if no_message else message.value() or b""
    document: dict[str, Any] = {
        "_id": rejected_id(message.topic(), message.partition(), message.offset()),
        "reason": contract.Reason.NOT_STORABLE.value,
        "detail": problem[:2000].encode("utf-8", "replace").decode(),
        "topic": message.topic(),
        "payload": value[: contract.PAYLOAD_BYTES].decode("utf-8", "replace"),
        "payload_bytes": len(value),
        "payload_sha256": hashlib.sha256(value).hexdigest(),
        "partition": message.partition(),
        "offset": message.offset(),
        "RejectedAt": dt.datetime.now(dt.UTC) if no_message else _kafka_time(message),
    }
    if (uuid := _readable_uuid(message)) is not None:
        document["UUID"] = uuid
    log.warning("Rejected %s: %s", document["_id"], document["detail"])
    return Entry(Collection.REJECTED, document["_id"], bson.encode(document), message)


def _readable_uuid(message: Message) -> str | None:
    key = message.key()
    candidates = [
        contract.read_fields(message.value()).get("UUID"),
        key.decode("utf-8", "replace") if isinstance(key, bytes) else key,
    ]
    return next((text.lower() for text in candidates if isinstance(text, str) and is_uuid(text)), None)


def _kafka_time(message: Message) -> dt.datetime:
    milliseconds = min(max(message.timestamp()[1], 0), _LATEST_MILLISECONDS)  # where a client sets it, it may be any
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


# --- from document to MongoDB ------------------------------------------------------------------------------------


def store(db: Database[dict[str, Any]], entries: Iterable[Entry]) -> None:
    """Inserts what is absent. When it returns, each entry is stored; as a rejected document where MongoDB refused it.

    May be repeated. Raises PyMongoError where MongoDB is away or takes nothing at all.
    """
    first: dict[tuple[Collection, str, bytes], Entry] = {}
    for item in entries:
        another = item.bson if item.collection is Collection.REJECTED else b""  # two topics' rejections share an `_id`
        first.setdefault((item.collection, item.id, another), item)
    for collection in (Collection.RESPONSES, Collection.REPLAYS, Collection.CANARIES, Collection.REJECTED):
        if found := [item for item in first.values() if item.collection == collection]:
            _insert(db, collection, found)


def _insert(db: Database[dict[str, Any]], collection: Collection, entries: list[Entry]) -> None:
    target = db.get_collection(collection)
    try:
        target.insert_many([RawBSONDocument(item.bson) for item in entries], ordered=False)
    except BulkWriteError as error:
        if error.details.get("writeConcernErrors"):
            raise  # written, but perhaps not durably: try again
        for failure in error.details["writeErrors"]:
            refused = entries[failure["index"]]
            if failure["code"] != _DUPLICATE_KEY:
                _replace(db, refused, failure["errmsg"])
            elif collection is Collection.REJECTED:
                _insert_beside(db, refused)
    except OperationFailure as error:
        # The server is there and refused the whole command. One document's fault or its own?
        if len(entries) == 1:
            _replace(db, entries[0], sentence(error))
        else:
            for item in entries:
                _insert(db, collection, [item])


def _insert_beside(db: Database[dict[str, Any]], refused: Entry) -> None:
    """Inserts a rejection whose `_id` another one has, of a topic that was recreated since, under an `_id` of its own.

    The same rejection, delivered again, changes nothing.
    """
    document = bson.decode(refused.bson)
    present = db[Collection.REJECTED].find_one({"_id": refused.id}, list(_IDENTITY)) or {}
    if all(present.get(name) == document.get(name) for name in _IDENTITY):
        return
    identity = "|".join(str(document.get(name)) for name in _IDENTITY)
    document["_id"] = f"{refused.id}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    try:
        db[Collection.REJECTED].insert_one(document)
    except DuplicateKeyError:
        return


def _replace(db: Database[dict[str, Any]], refused: Entry, problem: str) -> None:
    """Stores the rejected document instead; if MongoDB takes that, it was the document's fault, else this raises."""
    substitute = reject(refused.message, f"MongoDB refused it: {problem}")
    if substitute.id == refused.id:
        raise OperationFailure(f"MongoDB refused even the rejected document {refused.id}: {problem}")
    with suppress(DuplicateKeyError):  # refused at an earlier delivery, too
        db[Collection.REJECTED].insert_one(RawBSONDocument(substitute.bson))


# --- the service -------------------------------------------------------------------------------------------------


class Sink:
    """Consumes both topics until `stop()`; one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._db = connect(settings)
        self._consumer = Consumer(
            {
                **client_options(settings),
                "group.id": GROUP,
                "client.id": GROUP,
                "auto.offset.reset": "earliest",
                # The client commits by itself, each second, on a rebalance and on close, but only what
                # store_offsets() handed to it.
                "enable.auto.commit": True,
                "auto.commit.interval.ms": 1_000,
                "enable.auto.offset.store": False,
                "session.timeout.ms": 6_000,  # a successor waits this long for its partitions after kill -9
                "heartbeat.interval.ms": 2_000,
                # Without a poll for so long, Kafka gives the partitions away; while MongoDB is away, nothing is polled.
                "max.poll.interval.ms": 86_400_000,
                # Some MiB are inserted in one go: the embedded server's heap is small.
                "queued.max.messages.kbytes": 4 * 1024,
                "fetch.queue.backoff.ms": 20,  # the default of 1 s stops the flow each time that queue is full
                "reconnect.backoff.ms": 1_000,  # each attempt while Kafka is away is reported, and kept until a poll
                "reconnect.backoff.max.ms": 2_000,
                "error_cb": _log_outage,
            }
        )
        self._written: deque[tuple[float, TopicPartition]] = deque()  # when, and the offset to go on from
        self._stopping = False  # no Event: a signal's handler that sets one can wait for the lock of its own thread
        self._stored = 0
        self._next_expiry = 0.0

    def stop(self, *_: object) -> None:
        """Ends `run()` after the batch at hand, within about a second."""
        self._stopping = True

    def run(self) -> None:
        """Creates topics and indexes where missing, then stores messages; a batch ends up whole or is read again.

        Raises KafkaException where the Kafka client fails for good: let the process manager start a new process.
        """
        try:
            admin = AdminClient(client_options(self._settings))
            self._until_done(lambda: ensure_topics(admin, self._settings))
            self._until_done(lambda: ensure_indexes(self._db))
            if not self._stopping:
                self._consumer.subscribe(TOPICS, on_assign=_assigned, on_revoke=self._revoked, on_lost=self._revoked)
            while not self._stopping:
                batch = self._next_batch()
                self._process([message for message in batch if message.error() is None])
                for error in filter(is_of_a_batch, batch):
                    self._leave_out(error)
                self._store_offsets()
                self._expire()
        finally:
            self._consumer.close()
            self._db.client.close()
            log.info("Stopped after %d messages", self._stored)

    def _next_batch(self) -> list[Message]:
        # consume(n, timeout) would wait its whole timeout for n messages: wait for one, then take what is there.
        if (first := self._consumer.poll(0.5)) is None:
            return []
        batch = [first, *self._consumer.consume(self._settings.sink_batch_size, 0)]
        for error in (message.error() for message in batch if message.error() is not None):
            if error.fatal():
                raise KafkaException(error)
            log.warning("Kafka: %s", error.str())
        return batch

    def _process(self, batch: list[Message]) -> None:
        entries = [entry(message) for message in batch]
        if not self._until_done(lambda: store(self._db, entries)):
            return  # stopping: not written, so not committed, so read again
        self._stored += len(batch)
        ends = {(m.topic(), m.partition()): m.offset() + 1 for m in batch}
        now = time.monotonic()
        self._written.extend((now, TopicPartition(topic, number, end)) for (topic, number), end in ends.items())

    def _leave_out(self, error: Message) -> None:
        """Goes on behind a batch that the client cannot read, once a rejected document says so; may be repeated."""

        def leave_out() -> None:
            if (found := skip(self._consumer, self._settings, error)) is None:
                return
            problem = f"the batch of the offsets {found.first} to {found.last} is unreadable: {found.reason}"
            store(self._db, [reject(error, problem)])
            behind = TopicPartition(error.topic(), error.partition(), found.last + 1)
            self._written.append((time.monotonic(), behind))

        self._until_done(leave_out)

    def _until_done(self, action: Callable[[], object]) -> bool:
        """Tries the action until it works. False: stopping, not done.

        The sink stays in the consumer group meanwhile, without a poll (see `max.poll.interval.ms`).
        """
        backoff = 0.1
        while not self._stopping:
            try:
                action()
            except (PyMongoError, KafkaException, BrokerError) as error:
                log.warning("Tries again in %.1f s: %s", backoff, sentence(error))
                self._wait(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)
            else:
                if backoff > 0.1:
                    log.info("It works again")
                return True
        return False

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))

    def _store_offsets(self) -> None:
        durable = time.monotonic() - self._settings.sink_commit_delay_seconds
        while self._written and self._written[0][0] <= durable:
            _, position = self._written.popleft()
            try:
                self._consumer.store_offsets(offsets=[position])
            except KafkaException as error:  # no longer ours: whoever has the partition reads it again
                log.info("Offset of %s not committed: %s", position, error)

    def _revoked(self, _: Consumer, revoked: list[TopicPartition]) -> None:
        log.info("Gave up %s", _names(revoked))
        self._store_offsets()
        self._written.clear()  # too young to commit; read and found present by the next owner

    def _expire(self) -> None:
        if time.monotonic() < self._next_expiry:
            return
        self._next_expiry = time.monotonic() + _EXPIRY_INTERVAL_SECONDS
        try:
            expired = expire_canaries(self._db, dt.timedelta(hours=self._settings.canary_retention_hours))
            log.info("%d expired canaries deleted; %d messages stored so far", expired, self._stored)
        except PyMongoError as error:
            log.warning("Expired canaries stay for now: %s", sentence(error))


def _log_outage(error: KafkaError) -> None:
    if error.code() == KafkaError._ALL_BROKERS_DOWN:  # every 2 s; what the client else reports comes 20 times a second
        log.warning("Kafka: %s", error.str())


def _assigned(_: Consumer, assigned: list[TopicPartition]) -> None:
    log.info("Reads %s", _names(assigned))


def _names(positions: list[TopicPartition]) -> str:
    return ", ".join(f"{position.topic}-{position.partition}" for position in positions) or "nothing"


def check(settings: Settings) -> None:
    """Asks Kafka whether running sinks read every partition of both topics.

    Raises RuntimeError, saying what is missing, where they do not. A sink that was killed is missed after 6 s.
    """
    admin = AdminClient(client_options(settings))
    try:
        topics = admin.list_topics(timeout=5).topics
        group = admin.describe_consumer_groups([GROUP], request_timeout=5)[GROUP].result()
    except KafkaException as error:
        raise RuntimeError(
            f"Kafka at {settings.kafka_bootstrap} does not tell what the sink reads: {sentence(error)}"
        ) from error
    wanted = {(topic, number) for topic in TOPICS for number in (topics[topic].partitions if topic in topics else [0])}
    read = {(p.topic, p.partition) for member in group.members for p in member.assignment.topic_partitions}
    if group.state != ConsumerGroupState.STABLE or not wanted <= read:
        missing = ", ".join(f"{topic}-{number}" for topic, number in sorted(wanted - read)) or "nothing"
        raise RuntimeError(
            f"the sink does not read {missing} (group {GROUP} is {group.state.name}, {len(group.members)} members); "
            "see its log"
        )


if __name__ == "__main__":
    log_to_stderr(logging.INFO)
    sink = Sink(get_settings())
    signal.signal(signal.SIGTERM, sink.stop)
    signal.signal(signal.SIGINT, sink.stop)
    sink.run()
