"""Record batches as they lie on Kafka, unpacked up to a limit: which can a reader not take?

confluent-kafka gives records only, and nothing of a batch that it cannot unpack: neither its end nor its size.
kafka-python gives a batch as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flight_delays.errors import BrokerError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

MAX_RECORD_BYTES: Final = 1_048_588
"""A compressed record above this once unpacked is unreadable: Kafka's default of `max.message.bytes`, so no producer
without compression can send one. (A request has some 400 bytes.)"""
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""A compressed batch above this once unpacked is unreadable: librdkafka unpacks a whole batch, of at most 100 MB."""
MAX_RECORDS: Final = 200_000
"""A compressed batch with more records is unreadable: one of `MAX_BATCH_BYTES` has 160,000 requests."""

_WAIT_MS: Final = 10_000
_FETCH_BYTES: Final = 4 * 1024 * 1024
_RESPONSE_BYTES: Final = 128 * 1024 * 1024
"""A response has at least one whole batch, however large the broker lets it be."""
_SNAPPY_JAVA: Final = b"\x82SNAPPY\x00"
_CODECS: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}


@dataclass(frozen=True)
class Unreadable:
    """A batch that no reader should try: its partition, its first and its last offset, and why."""

    partition: int
    first: int
    last: int
    reason: str


@dataclass(frozen=True)
class _Batch:
    """A batch as it lies on Kafka; codec 0 is none."""

    first: int
    last: int
    codec: int
    data: memoryview

    def unreadable(self, partition: int, reason: str) -> Unreadable:
        codec = _CODECS.get(self.codec, self.codec)
        return Unreadable(partition, self.first, self.last, f"{len(self.data):,} bytes of {codec}: {reason}")


def unreadable(settings: Settings, topic: str, offsets: Mapping[int, int]) -> Iterator[Unreadable]:
    """The unreadable batches from these offsets on (partition -> offset), up to each partition's end of now.

    Memory stays at twice `MAX_BATCH_BYTES`, whatever lies there. Raises BrokerError where Kafka does not answer.
    """
    for partition, offset in sorted(offsets.items()):
        with _client(settings, topic) as client:
            for batch in _batches(client, topic, partition, offset):
                if batch.codec and (reason := _problem(batch)) is not None:  # the broker limits uncompressed ones
                    yield batch.unreadable(partition, reason)


def is_of_a_batch(message: Message) -> bool:
    """Whether this is an error in place of a message: the client cannot read a batch, however often it tries."""
    from confluent_kafka import KafkaError

    error = message.error()
    return error is not None and error.code() in (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)


def skip(consumer: Consumer, settings: Settings, message: Message) -> Unreadable | None:
    """Has the consumer go on behind the batch for which it gave this error; returns what it leaves out.

    None where the error is no matter of a batch. Raises BrokerError where Kafka does not answer.
    """
    from confluent_kafka import KafkaException, TopicPartition
    from kafka.errors import OffsetOutOfRangeError

    if not is_of_a_batch(message):
        return None
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    with _client(settings, topic) as client:
        try:
            batch = next(_batches(client, topic, partition, offset), None)
        except OffsetOutOfRangeError:  # the topic was recreated since its client met that batch
            return None
    if batch is None or not batch.codec:
        return None
    found = batch.unreadable(partition, "the client cannot unpack it")
    try:
        consumer.seek(TopicPartition(topic, partition, found.last + 1))
    except KafkaException as error:  # a rebalance gave the partition to another consumer, which meets the batch
        log.warning("Does not leave out %s-%d, offset %d: %s", topic, partition, found.first, error.args[0].str())
        return None
    log.warning("Left out %s-%d, offsets %d to %d: %s", topic, partition, found.first, found.last, found.reason)
    return found


@contextmanager
def _client(settings: Settings, topic: str) -> Iterator[Any]:
    """A client that knows the topic. Raises BrokerError where Kafka does not answer what is asked within."""
    from kafka.client_async import KafkaClient
    from kafka.errors import KafkaError

    logging.getLogger("kafka").setLevel(logging.ERROR)  # it logs each connection
    try:
        client = KafkaClient(bootstrap_servers=settings.kafka_bootstrap, receive_message_max_bytes=_RESPONSE_BYTES)
        try:
            client.poll(timeout_ms=_WAIT_MS, future=client.set_topics([topic]))
            yield client
        finally:
            client.close()
    except KafkaError as error:
        raise BrokerError(f"Kafka at {settings.kafka_bootstrap} does not give batches of {topic}: {error}") from error


def _batches(client: Any, topic: str, partition: int, offset: int) -> Iterator[_Batch]:
    """The batches from the offset on. Raises kafka-python's errors."""
    from kafka.errors import KafkaTimeoutError, LeaderNotAvailableError, for_code
    from kafka.protocol.fetch import FetchRequest
    from kafka.record.default_records import DefaultRecordBatch
    from kafka.structs import TopicPartition

    leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    if leader in (None, -1):
        raise LeaderNotAvailableError(f"partition {partition} has no leader")
    client.await_ready(leader, timeout_ms=_WAIT_MS)
    header = DefaultRecordBatch.HEADER_STRUCT
    end, deadline = None, time.monotonic() + _WAIT_MS / 1000
    while end is None or offset < end:
        # replica (none), wait in ms, bytes at least and at most, isolation (everything that lies there)
        wanted = (-1, 100, 1, _FETCH_BYTES, 0, [(topic, [(partition, offset, _FETCH_BYTES)])])
        response = client.send_and_receive(leader, FetchRequest[4](*wanted))
        _, error, high, _, _, records = response.topics[0][1][0]
        if error:
            raise for_code(error)()
        end = high if end is None else end
        view, position, begin = memoryview(records or b""), 0, offset
        while len(view) - position >= header.size:
            first, length, _, _, _, attributes, last_delta, *_ = header.unpack_from(view, position)
            whole = position + DefaultRecordBatch.AFTER_LEN_OFFSET + length
            if whole > len(view):  # cut by the limit of bytes: it comes first in the next response, and then whole
                break
            yield _Batch(first, first + last_delta, attributes & 7, view[position + header.size : whole])
            offset, position = first + last_delta + 1, whole
        if offset > begin:
            deadline = time.monotonic() + _WAIT_MS / 1000
        elif offset < end and time.monotonic() > deadline:  # a broker that is told to slow down gives nothing at first
            raise KafkaTimeoutError(f"nothing from offset {offset} on, of {end}")


def _problem(batch: _Batch) -> str | None:
    """Why a compressed batch's records cannot be taken; None where they can."""
    from kafka.record.util import decode_varint

    try:
        records = _unpacked(_CODECS.get(batch.codec, str(batch.codec)), batch.data)
        position = count = 0
        while position < len(records):
            length, position = decode_varint(records, position)
            position += length
            count += 1
            if count > MAX_RECORDS:
                return f"more than {MAX_RECORDS:,} records"
            if length > MAX_RECORD_BYTES:
                return f"a record of {length:,} bytes once unpacked (at most {MAX_RECORD_BYTES:,})"
            if length < 0:
                raise ValueError("a record has a negative length")
    except (OSError, ValueError, IndexError) as error:
        return f"cannot be unpacked ({error})"
    if len(records) > MAX_BATCH_BYTES:
        return f"more than {MAX_BATCH_BYTES:,} bytes once unpacked"
    return None if position == len(records) else "cannot be unpacked (it ends within a record)"


def _unpacked(codec: str, data: memoryview) -> bytes:
    """The first `MAX_BATCH_BYTES` of a batch's records, and one byte more where there are more.

    Raises OSError, ValueError or IndexError where the data are damaged.
    """
    import pyarrow as pa
    from kafka.record.util import decode_varint

    if codec != "snappy":
        with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), codec) as stream:
            return bytes(stream.read(MAX_BATCH_BYTES + 1))
    unpacked = bytearray()
    for block in _snappy_blocks(data):
        zigzag, _ = decode_varint(block)  # a block begins with its unpacked size, which is no zigzag number
        size = (zigzag << 1) ^ (zigzag >> 63)
        if size + len(unpacked) > MAX_BATCH_BYTES:
            raise ValueError(f"more than {MAX_BATCH_BYTES:,} bytes once unpacked")
        unpacked += pa.Codec("snappy").decompress(block, decompressed_size=size, asbytes=True)
    return bytes(unpacked)


def _snappy_blocks(data: memoryview) -> Iterator[memoryview]:
    """Java's clients write a header of 16 bytes, and each block's size before it; librdkafka one block, and no more."""
    if bytes(data[:8]) != _SNAPPY_JAVA:
        yield data
        return
    position = 16
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 4 + size]
        position += 4 + size
