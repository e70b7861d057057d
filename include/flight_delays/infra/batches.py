"""Record batches as they lie on Kafka, looked at without unpacking them into memory: which can a reader not take?

confluent-kafka gives records only, and nothing of a batch that it cannot unpack: neither its end nor its size.
kafka-python gives a batch as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
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
_PIECE_BYTES: Final = 64 * 1024
_SNAPPY_JAVA: Final = b"\x82SNAPPY\x00"
_CODECS: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}


@dataclass(frozen=True)
class Unreadable:
    """A batch that no reader should try: its partition, its first and its last offset, and why."""

    partition: int
    first: int
    last: int
    reason: str


def unreadable(
    settings: Settings, topic: str, offsets: Mapping[int, int], *, only_first: bool = False
) -> Iterator[Unreadable]:
    """The unreadable batches from these offsets on (partition -> offset), up to each partition's end of now.

    With `only_first`, a compressed batch at each offset is taken as unreadable, whatever it holds, and nothing else is
    looked at. Memory stays at some MiB, whatever lies there. Raises BrokerError where Kafka does not answer.
    """
    from kafka.client_async import KafkaClient
    from kafka.errors import KafkaError, LeaderNotAvailableError, OffsetOutOfRangeError
    from kafka.structs import TopicPartition

    logging.getLogger("kafka").setLevel(logging.ERROR)  # it logs each connection
    try:
        client = KafkaClient(bootstrap_servers=settings.kafka_bootstrap, receive_message_max_bytes=_RESPONSE_BYTES)
        try:
            client.poll(timeout_ms=_WAIT_MS, future=client.set_topics([topic]))
            for partition, offset in sorted(offsets.items()):
                leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
                if leader in (None, -1):
                    raise LeaderNotAvailableError(f"partition {partition} has no leader")
                client.await_ready(leader, timeout_ms=_WAIT_MS)
                for first, last, codec, data in _batches(client, leader, topic, partition, offset):
                    reason = "the client cannot unpack it" if only_first and codec else _problem(codec, data)
                    if reason is not None:
                        yield Unreadable(
                            partition, first, last, f"{len(data):,} bytes of {_CODECS.get(codec, codec)}: {reason}"
                        )
                    if only_first:
                        break
        finally:
            client.close()
    except KafkaError as error:
        if only_first and isinstance(error, OffsetOutOfRangeError):
            return  # the topic was recreated since its client met that batch
        raise BrokerError(f"Kafka at {settings.kafka_bootstrap} does not give batches of {topic}: {error}") from error


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

    if not is_of_a_batch(message):
        return None
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    for found in unreadable(settings, topic, {partition: offset}, only_first=True):
        try:
            consumer.seek(TopicPartition(topic, partition, found.last + 1))
        except KafkaException as error:  # a rebalance gave the partition to another consumer, which meets the batch
            log.warning("Does not leave out %s-%d, offset %d: %s", topic, partition, found.first, error.args[0].str())
            return None
        log.warning("Left out %s-%d, offsets %d to %d: %s", topic, partition, found.first, found.last, found.reason)
        return found
    return None


def _batches(
    client: Any, leader: int, topic: str, partition: int, offset: int
) -> Iterator[tuple[int, int, int, memoryview]]:
    """First and last offset, codec (0: none) and records of each batch from the offset on."""
    from kafka.errors import KafkaTimeoutError, for_code
    from kafka.protocol.fetch import FetchRequest
    from kafka.record.default_records import DefaultRecordBatch

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
            yield first, first + last_delta, attributes & 7, view[position + header.size : whole]
            offset, position = first + last_delta + 1, whole
        if offset > begin:
            deadline = time.monotonic() + _WAIT_MS / 1000
        elif offset < end and time.monotonic() > deadline:  # a broker that is told to slow down gives nothing at first
            raise KafkaTimeoutError(f"nothing from offset {offset} on, of {end}")


def _problem(codec: int, data: memoryview) -> str | None:
    """Why a batch's records cannot be taken; None where they can. Uncompressed ones can: the broker limits them."""
    if codec == 0:
        return None
    try:
        stream = _Unpacked(codec, data)
        records = 0
        while (length := stream.varint()) is not None:
            records += 1
            if records > MAX_RECORDS:
                return f"more than {MAX_RECORDS:,} records"
            if length > MAX_RECORD_BYTES:
                return f"a record of {length:,} bytes once unpacked (at most {MAX_RECORD_BYTES:,})"
            stream.skip(length)
            if stream.position > MAX_BATCH_BYTES:
                return f"more than {MAX_BATCH_BYTES:,} bytes once unpacked"
    except (OSError, ValueError) as error:
        return f"cannot be unpacked ({error})"
    return None


class _Unpacked:
    """The records of a batch, unpacked piece by piece."""

    def __init__(self, codec: int, data: memoryview) -> None:
        self.position = 0
        self._pieces = _pieces(_CODECS.get(codec, str(codec)), data)
        self._piece = b""
        self._begin = 0

    def varint(self) -> int | None:
        """A record's length, a zigzag varint; None at the end."""
        value = shift = 0
        while True:
            if self._begin == len(self._piece) and not self._fill():
                if shift:
                    raise ValueError("it ends within a record")
                return None
            byte = self._piece[self._begin]
            self._begin += 1
            self.position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 35:
                raise ValueError("a record's length has more than 5 bytes")
            if not byte & 0x80:
                return (value >> 1) ^ -(value & 1)

    def skip(self, length: int) -> None:
        """Skips that number of bytes."""
        if length < 0:
            raise ValueError("a record has a negative length")
        self.position += length
        while length > len(self._piece) - self._begin:
            length -= len(self._piece) - self._begin
            if not self._fill():
                raise ValueError("it ends within a record")
        self._begin += length

    def _fill(self) -> bool:
        self._piece, self._begin = next(self._pieces, b""), 0
        return bool(self._piece)


def _pieces(codec: str, data: memoryview) -> Iterator[bytes]:
    """What a batch's data unpack to, in pieces; raises OSError or ValueError where they are damaged."""
    import pyarrow as pa

    if codec != "snappy":
        with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), codec) as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
        return
    for block in _snappy_blocks(data):
        size = 0  # a block begins with its unpacked size
        for number, byte in enumerate(block[:5]):
            size |= (byte & 0x7F) << (7 * number)
            if not byte & 0x80:
                break
        if size > MAX_BATCH_BYTES:
            raise ValueError(f"a block of {size:,} bytes once unpacked")
        yield pa.Codec("snappy").decompress(block, decompressed_size=size, asbytes=True)


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
