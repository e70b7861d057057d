"""The sink on real services: whatever dies, and whatever lies on the topics, every message is stored once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import bson
import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient

from flight_delays.answers.sink import GROUP, Entry, check, entry, store
from flight_delays.answers.store import find_answer
from flight_delays.contract import CLIENT_ID, DEAD_LETTER_TOPIC, REQUEST_TOPIC, RESPONSE_TOPIC, Collection, Reason
from flight_delays.infra.topics import ensure_topics
from flight_delays.predictor.workload import find_canary
from flight_delays.settings import Settings
from tests import flights
from tests.conftest import Mongo, Stack
from tests.integration.line import compressed, put_bomb

pytestmark = pytest.mark.integration


def answer(uuid: str, **changes: Any) -> tuple[str, str, bytes]:
    return RESPONSE_TOPIC, uuid, json.dumps(flights.answer(uuid, **changes)).encode()


def produce(settings: Settings, messages: list[tuple[str, str | None, bytes | None]]) -> None:
    options = {"client.id": CLIENT_ID, "enable.idempotence": True, "linger.ms": 5}
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, **options})
    for topic, key, value in messages:
        producer.produce(topic, key=key, value=value)
        producer.poll(0)
    assert producer.flush(20) == 0


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def recreate(settings: Settings, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    admin.delete_topics([topic])[topic].result(20)
    eventually(lambda: topic in ensure_topics(admin, settings))
    eventually(lambda: len(admin.list_topics(topic, timeout=5).topics[topic].partitions) == 2)


def is_ready(settings: Settings) -> bool:
    try:
        check(settings)
    except RuntimeError:
        return False
    return True


def stored(database: Mongo, uuids: list[str]) -> bool:
    """Whether exactly these answers are in the collection."""
    responses = database[Collection.RESPONSES]
    if responses.estimated_document_count() < len(uuids):
        return False
    return sorted(document["_id"] for document in responses.find({}, {"_id": 1})) == sorted(uuids)


@contextmanager
def sink(settings: Settings, commit_delay: float = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A running sink; without a commit delay, what it has stored is not read again by the next test's."""
    environment = os.environ | settings.environment | {"FLIGHTS_SINK_COMMIT_DELAY_SECONDS": str(commit_delay)}
    with (settings.home / "sink.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "flight_delays.answers.sink"], stderr=log, env=environment)
        try:
            eventually(lambda: is_ready(settings))
            yield process
        finally:
            process.terminate()
            assert process.wait(10) in (0, -signal.SIGKILL)


@pytest.fixture
def settings(stack: Stack, mongo: Mongo) -> Settings:
    return stack.settings


def test_the_first_answer_stays(settings: Settings, mongo: Mongo) -> None:
    uuid, twice = str(uuid4()), str(uuid4())
    with sink(settings):
        produce(settings, [answer(uuid)])
        eventually(lambda: find_answer(mongo, uuid) is not None)
        produce(
            settings,
            [answer(uuid, Prediction=0), answer(uuid.upper(), Prediction=1)]
            + [answer(twice, Prediction=prediction) for prediction in (3, 0, 1)],
        )
        marker = str(uuid4())
        produce(settings, [answer(marker), answer(str(uuid4()))])
        eventually(lambda: mongo[Collection.RESPONSES].estimated_document_count() == 4)
    first, second = find_answer(mongo, uuid), find_answer(mongo, twice)
    assert first is not None
    assert second is not None
    assert (first.document["Prediction"], second.document["Prediction"]) == (2, 3)
    assert abs(first.document["PredictedAt"].timestamp() - time.time()) < 60


def test_canaries_and_replays_stay_apart_and_their_first_answer_stays(settings: Settings, mongo: Mongo) -> None:
    canary, replayed = str(uuid4()), str(uuid4())
    with sink(settings):
        produce(settings, [answer(canary, Canary=True, Deployment=deployment) for deployment in (3, 4, 3)])
        produce(settings, [answer(replayed, Replay="run", Prediction=prediction) for prediction in (3, 0)])
        produce(settings, [answer(str(uuid4()), Replay="run")])
        eventually(lambda: find_canary(mongo, canary, 3) is not None and find_canary(mongo, canary, 4) is not None)
        eventually(lambda: mongo[Collection.REPLAYS].estimated_document_count() == 2)
    assert find_canary(mongo, canary, 5) is None
    assert mongo[Collection.CANARIES].estimated_document_count() == 2
    found = mongo[Collection.REPLAYS].find_one({"_id": replayed})
    assert found is not None
    assert (found["Replay"], found["Prediction"]) == ("run", 3)
    assert find_answer(mongo, canary) is None
    assert find_answer(mongo, replayed) is None


def test_poison_is_rejected_and_the_rest_goes_on(settings: Settings, mongo: Mongo) -> None:
    poisoned, good = str(uuid4()), [str(uuid4()) for _ in range(8)]
    letter = {"reason": "wrong_type", "payload": "{", "payload_bytes": 1, "partition": 1, "offset": 99, "UUID": good[0]}
    deep: Any = {}
    for _ in range(30):
        deep = {"deeper": deep}
    poison: list[bytes | None] = [
        None,
        b"",
        b"no JSON",
        b"\xff\xfe",
        b"[" * 5000,
        answer(poisoned, Prediction="2")[2],
        answer(poisoned, Deployment=10**30)[2],
        answer(poisoned, RequestOffset=2**63)[2],
        answer(poisoned, Timestamp=deep)[2],
    ]
    produce(
        settings,
        [answer(uuid) for uuid in good[:4]]
        + [(topic, poisoned, value) for value in poison for topic in (RESPONSE_TOPIC, DEAD_LETTER_TOPIC)]
        + [(DEAD_LETTER_TOPIC, good[0], json.dumps(letter).encode())]
        + [answer(uuid) for uuid in good[4:]],
    )
    rejected = mongo[Collection.REJECTED]
    with sink(settings):
        eventually(lambda: stored(mongo, good))
        eventually(lambda: rejected.estimated_document_count() == 2 * len(poison) + 1)
    found = find_answer(mongo, poisoned)
    assert found is not None
    assert (found.status, found.document["reason"]) == ("REJECTED", Reason.NOT_STORABLE)
    assert rejected.count_documents({"UUID": poisoned}) == 2 * len(poison)
    dead = rejected.find_one({"_id": "flight_delay_classification_request-1-99"})
    assert dead is not None
    assert dead["reason"] == "wrong_type"
    prediction = find_answer(mongo, good[0])  # rejected once, answered once
    assert prediction is not None
    assert prediction.status == "OK"


@pytest.mark.parametrize(
    ("topic", "codec"), [(RESPONSE_TOPIC, "gzip"), (RESPONSE_TOPIC, "zstd"), (DEAD_LETTER_TOPIC, "lz4")]
)
def test_a_bomb_is_rejected_and_the_rest_goes_on(
    codec: str, topic: str, stack: Stack, settings: Settings, mongo: Mongo
) -> None:
    uuids = [str(uuid4()) for _ in range(40)]
    with compressed(stack, topic):
        produce(settings, [answer(uuid) for uuid in uuids[:20]])
        for partition in (0, 1):
            assert put_bomb(stack, topic, codec, partition=partition)[0] == {None}
        produce(settings, [answer(uuid) for uuid in uuids[20:]])
    with sink(settings):
        eventually(lambda: stored(mongo, uuids))
        eventually(lambda: mongo[Collection.REJECTED].estimated_document_count() == 2)
        time.sleep(1.5)  # until the offsets behind them are committed
    rejected = list(mongo[Collection.REJECTED].find({}))
    assert {document["reason"] for document in rejected} == {Reason.NOT_STORABLE}
    assert {document["topic"] for document in rejected} == {topic}
    mongo[Collection.REJECTED].delete_many({})
    later = str(uuid4())
    with sink(settings):
        produce(settings, [answer(later)])
        eventually(lambda: find_answer(mongo, later) is not None)
        assert mongo[Collection.REJECTED].estimated_document_count() == 0, "it is not met again"


def test_a_bomb_that_is_met_again_after_a_rebalance_is_left_out_again(
    stack: Stack, settings: Settings, mongo: Mongo
) -> None:
    uuids = [str(uuid4()) for _ in range(10)]
    with compressed(stack, RESPONSE_TOPIC):
        for partition in (0, 1):
            put_bomb(stack, RESPONSE_TOPIC, partition=partition)
    with sink(settings, commit_delay=3):
        eventually(lambda: mongo[Collection.REJECTED].estimated_document_count() == 2)
        other = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": GROUP})  # comes and goes
        other.subscribe([RESPONSE_TOPIC])
        eventually(lambda: other.poll(0.1) is not None or bool(other.assignment()))
        other.close()
        produce(settings, [answer(uuid) for uuid in uuids])
        eventually(lambda: stored(mongo, uuids))
        time.sleep(4.5)  # until the offsets behind them are committed
    assert mongo[Collection.REJECTED].estimated_document_count() == 2


def test_a_topic_that_is_recreated_under_the_sink_is_read(stack: Stack, settings: Settings, mongo: Mongo) -> None:
    before, behind = ([str(uuid4()) for _ in range(count)] for count in (200, 10))

    def put_bombs() -> None:
        with compressed(stack, RESPONSE_TOPIC):
            for partition in (0, 1):
                put_bomb(stack, RESPONSE_TOPIC, partition=partition)

    with sink(settings):
        produce(settings, [answer(uuid) for uuid in before])
        put_bombs()
        eventually(lambda: mongo[Collection.REJECTED].estimated_document_count() == 2)
        time.sleep(1.5)
        recreate(settings, RESPONSE_TOPIC)
        put_bombs()  # at lower offsets than before
        produce(settings, [answer(uuid) for uuid in behind])
        eventually(lambda: stored(mongo, before + behind), 60)


def test_every_answer_on_a_recreated_topic_is_stored(stack: Stack, settings: Settings, mongo: Mongo) -> None:
    before, behind = ([str(uuid4()) for _ in range(count)] for count in (200, 600))
    with sink(settings):
        produce(settings, [answer(uuid) for uuid in before])
        eventually(lambda: stored(mongo, before))
        time.sleep(1.5)  # until the offsets are committed
    recreate(settings, RESPONSE_TOPIC)
    produce(settings, [answer(uuid) for uuid in behind])
    with sink(settings):
        eventually(lambda: stored(mongo, before + behind))


def test_the_second_rejection_at_a_place_is_kept_beside_the_first(settings: Settings, mongo: Mongo) -> None:
    def letter(uuid: str, sha256: str) -> tuple[str, str, bytes]:
        fields = {"reason": "empty", "payload_bytes": 0, "partition": 0, "offset": 7, "payload_sha256": sha256}
        return DEAD_LETTER_TOPIC, uuid, json.dumps({**fields, "UUID": uuid}).encode()

    first, second, third = (str(uuid4()) for _ in range(3))
    letters = [letter(first, "a"), letter(second, "b"), letter(third, "b"), letter(first, "b")]
    for _ in range(2):  # delivered again: nothing changes
        with sink(settings):
            produce(settings, letters[:1])  # the others may lie in the other partition, and be read before it
            eventually(lambda: find_answer(mongo, first) is not None)
            produce(settings, letters[1:])
            eventually(lambda: all(find_answer(mongo, uuid) is not None for uuid in (first, second, third)))
            marker = str(uuid4())
            produce(settings, [(DEAD_LETTER_TOPIC, marker, letter(marker, marker)[2])])
            eventually(lambda: find_answer(mongo, marker) is not None)  # noqa: B023
        mongo[Collection.REJECTED].delete_many({"UUID": marker})
        assert mongo[Collection.REJECTED].estimated_document_count() == 4
        (document,) = mongo[Collection.REJECTED].find({"_id": f"{REQUEST_TOPIC}-0-7"})
        assert document["UUID"] == first


def test_what_mongodb_refuses_is_rejected(mongo: Mongo) -> None:
    uuid = str(uuid4())

    def message(offset: int) -> Message:
        topic, key, value = answer(uuid)
        return Message(topic=topic, partition=0, offset=offset, key=key, value=value, timestamp=(1, 0))

    refused = Entry(Collection.RESPONSES, "refused", bson.encode({"_id": ["no array may be an _id"]}), message(1))
    for _ in range(2):
        store(mongo, [refused, entry(message(2))])
        assert stored(mongo, [uuid])
        (document,) = mongo[Collection.REJECTED].find({})
        assert (document["_id"], document["UUID"]) == (f"{RESPONSE_TOPIC}-0-1", uuid)
        assert "MongoDB refused it" in document["detail"]


def test_nothing_is_lost_while_mongodb_is_away(stack: Stack, settings: Settings, mongo: Mongo) -> None:
    uuids = [str(uuid4()) for _ in range(1200)]
    with sink(settings) as process:
        produce(settings, [answer(uuid) for uuid in uuids[:400]])
        stack.supervisor.stop_service("mongo")
        produce(settings, [answer(uuid) for uuid in uuids[400:800]])
        time.sleep(5)  # several attempts
        assert is_ready(settings)  # still in the group: it goes on at once
        stack.await_ready("mongo")
        produce(settings, [answer(uuid) for uuid in uuids[800:]])
        eventually(lambda: stored(mongo, uuids))
        assert process.poll() is None


def test_partitions_that_come_during_an_outage_lose_nothing(stack: Stack, settings: Settings, mongo: Mongo) -> None:
    uuids = [str(uuid4()) for _ in range(40)]
    with sink(settings):
        with sink(settings) as other:
            time.sleep(2)  # until the partitions are shared out
            stack.supervisor.stop_service("mongo")
            produce(settings, [answer(uuid) for uuid in uuids])
            time.sleep(2)
            other.terminate()
            other.wait(10)
            time.sleep(4)  # until the first has them all, still waiting for MongoDB
        stack.await_ready("mongo")
        eventually(lambda: stored(mongo, uuids))


def test_kafka_is_away_for_longer_than_the_session_while_mongodb_is_away(
    stack: Stack, settings: Settings, mongo: Mongo
) -> None:
    """The group gives the partitions away while the sink waits, and assigns them again once it stores."""
    uuids = [str(uuid4()) for _ in range(40)]
    with sink(settings):
        stack.supervisor.stop_service("mongo")
        produce(settings, [answer(uuid) for uuid in uuids[:20]])
        time.sleep(1)
        stack.supervisor.stop_service("kafka")
        time.sleep(10)  # the session lasts 6 s
        stack.await_ready("mongo")
        time.sleep(3)
        stack.await_ready("kafka")
        produce(settings, [answer(uuid) for uuid in uuids[20:]])
        eventually(lambda: stored(mongo, uuids), 60)


def test_kill_9_of_mongodb_loses_nothing(stack: Stack, settings: Settings, mongo: Mongo) -> None:
    uuids = [str(uuid4()) for _ in range(3000)]
    with sink(settings):
        for begin in range(0, len(uuids), 1000):
            produce(settings, [answer(uuid) for uuid in uuids[begin : begin + 1000]])
            stack.kill("mongo")
        stack.await_ready("mongo")
        eventually(lambda: stored(mongo, uuids))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_sink_that_ends_in_the_middle_loses_nothing(settings: Settings, mongo: Mongo, how: signal.Signals) -> None:
    uuids = [str(uuid4()) for _ in range(4000)]
    responses = mongo[Collection.RESPONSES]
    produce(settings, [answer(uuid) for uuid in uuids[:2000]])
    with sink(settings) as process:
        eventually(lambda: responses.estimated_document_count() > 100)
        produce(settings, [answer(uuid) for uuid in uuids[2000:]])
        process.send_signal(how)
        begin = time.monotonic()
        assert process.wait(10) == (0 if how == signal.SIGTERM else -how)
        assert time.monotonic() - begin < 5
    first = {document["_id"]: document["PredictedAt"] for document in responses.find({}, {"PredictedAt": 1})}
    with sink(settings):
        eventually(lambda: stored(mongo, uuids))
    again = {document["_id"]: document["PredictedAt"] for document in responses.find({}, {"PredictedAt": 1})}
    assert first.items() <= again.items()


def test_offsets_follow_the_writes_after_a_while(settings: Settings, mongo: Mongo) -> None:
    uuid, later = str(uuid4()), str(uuid4())
    responses = mongo[Collection.RESPONSES]
    produce(settings, [answer(uuid)])
    with sink(settings, commit_delay=60):
        eventually(lambda: stored(mongo, [uuid]))
        time.sleep(2)  # the client's commit interval is 1 s
    responses.delete_many({})
    with sink(settings, commit_delay=0.5):
        eventually(lambda: stored(mongo, [uuid]))  # too young to be committed: read again
        time.sleep(1.5)
    responses.delete_many({})
    produce(settings, [answer(later)])
    with sink(settings):
        eventually(lambda: stored(mongo, [later]))  # old enough: not read again


def test_the_check_tells_whether_a_sink_reads(settings: Settings) -> None:
    with sink(settings):
        check(settings)
    with pytest.raises(RuntimeError, match=f"does not read .*{RESPONSE_TOPIC}-0"):
        check(settings)


def test_twenty_thousand_at_once_are_all_stored(settings: Settings, mongo: Mongo) -> None:
    uuids = [str(uuid4()) for _ in range(20_000)]
    produce(settings, [answer(uuid) for uuid in uuids])
    with sink(settings):
        eventually(lambda: stored(mongo, uuids), 120)
