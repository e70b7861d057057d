"""How the tests talk to the whole line: messages onto the topic, answers from the web app, runs of DAGs."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from flight_delays.contract import CLIENT_ID, REQUEST_TOPIC, DagId
from flight_delays.errors import BrokerError, PredictorError
from flight_delays.infra import mongo
from flight_delays.infra.kafka import ends
from flight_delays.predictor import control, engine
from flight_delays.predictor.control import Outcome
from flight_delays.predictor.handover import committed
from flight_delays.predictor.state import Deployment, Wanted, read_state
from flight_delays.predictor.workload import CANARY
from flight_delays.settings import Settings
from stack.airflow_api import ACTIVE, AirflowApi
from tests.conftest import Stack
from tests.web.form import RESPONSE


def reconcile(settings: Settings, *asked: Any, **more: Any) -> Outcome:
    """`control.reconcile`, on a client of its own."""
    with mongo.database(settings) as db:
        return control.reconcile(settings, db, *asked, **more)


def check(settings: Settings) -> Deployment | None:
    """The serving deployment; None where none is wanted or deployed. Raises PredictorError where it is unhealthy."""
    with mongo.database(settings) as db:
        state = read_state(db)
    if state.serving is None or state.wanted is Wanted.STOPPED:
        return None
    if (reason := engine.unhealthy_reason(settings, state.serving)) is not None:
        raise PredictorError(reason)
    return state.serving


def until(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.2) -> Any:
    """The condition's first true value, looked at `every` so many seconds; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {seconds} s: {what}")


def servers(stack: Stack) -> dict[str, str]:
    """For a producer of any size: the broker's limit for clients has a test of its own."""
    return {"bootstrap.servers": stack.settings.kafka_bootstrap, "client.id": CLIENT_ID}


def flight(**changes: Any) -> dict[str, Any]:
    """A valid request, as an old client would put it on the topic."""
    now = dt.datetime.now(dt.UTC).isoformat()
    return {"UUID": str(uuid4()), "Timestamp": now, **CANARY, "DayOfWeek": 0} | changes


def put(line: Stack, *messages: bytes | None, **more: Any) -> list[tuple[int, int]]:
    """Straight onto the request topic, with a key or whatever else `Producer.produce` takes; returns their places."""
    options = {"compression.type": "zstd", "message.max.bytes": 4_000_000}
    producer = Producer({**servers(line), **options})
    places: dict[int, tuple[int, int]] = {}
    for number, message in enumerate(messages):

        def confirmed(error: Any, sent: Message, number: int = number) -> None:
            assert error is None, error
            places[number] = (sent.partition(), sent.offset())

        producer.produce(REQUEST_TOPIC, value=message, on_delivery=confirmed, **more)
    assert producer.flush(15) == 0
    return [places[number] for number in range(len(messages))]


def create_topic(stack: Stack, kind: str, partitions: int = 2, **config: str) -> str:
    """A topic of its own, which the broker knows; returns its name. `config` has the broker's names, dots as `_`."""
    name = f"{kind}-{uuid4()}"
    admin = AdminClient({"bootstrap.servers": stack.settings.kafka_bootstrap})
    options = {key.replace("_", "."): value for key, value in config.items()}
    admin.create_topics([NewTopic(name, partitions, 1, config=options)])[name].result(20)

    def answers() -> bool:
        try:
            return len(ends(stack.settings, name)) == partitions
        except BrokerError:  # a new topic has no leader for a moment
            return False

    until(answers, 20, "the topic")
    return name


@contextmanager
def compressed(stack: Stack, topic: str) -> Iterator[None]:
    """Lets the topic take batches as producers compress them, as the topics of release 0.1.0 did."""
    admin = AdminClient({"bootstrap.servers": stack.settings.kafka_bootstrap})

    def set_compression(value: str) -> None:
        entry = ConfigEntry("compression.type", value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(20)

    set_compression("producer")
    try:
        yield
    finally:
        set_compression("uncompressed")


def put_bomb(
    stack: Stack, topic: str, codec: str = "zstd", size: int = 150_000_000, count: int = 1, *, partition: int = 0
) -> tuple[set[int | None], int]:
    """Sends records of one letter in one batch: the codes of what became of them, None for taken, and the last offset.

    A batch of some KB on the wire, which takes `size * count` bytes once unpacked.
    """
    options = {"compression.type": codec, "message.max.bytes": 500_000_000, "batch.size": 500_000_000}
    limits = {
        "linger.ms": 10_000,
        "batch.num.messages": count,
        "message.timeout.ms": 30_000,
        "queue.buffering.max.kbytes": 2_000_000,
    }
    producer = Producer({**servers(stack), **options, **limits})
    codes: set[int | None] = set()
    last = -1

    def done(error: KafkaError | None, message: Message) -> None:
        nonlocal last
        codes.add(error.code() if error else None)
        last = message.offset() if error is None else last

    for _ in range(count):
        producer.produce(topic, b"a" * size, partition=partition, on_delivery=done)
    assert producer.flush(60) == 0
    return codes, last


def messages_on(line: Stack, topic: str, begin: int = 0) -> list[Message]:
    """Everything that lies on the topic now; of partition 0 from that offset on."""
    consumer = Consumer({"bootstrap.servers": line.settings.kafka_bootstrap, "group.id": "tests"})
    found = []
    try:
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            low = low if partition else max(low, begin)
            consumer.assign([TopicPartition(topic, partition, low)])
            while low < high:
                message = consumer.poll(20)
                assert message is not None, f"{topic}-{partition} ends at {low} of {high}"
                assert message.error() is None
                found.append(message)
                low = message.offset() + 1
    finally:
        consumer.close()
    return found


def goes_on(settings: Settings, before: Deployment, after: Deployment) -> bool:
    """Whether the later deployment began where the earlier one had got to, or further on."""
    old, new = (committed(settings.checkpoints / each.checkpoint) for each in (before, after))
    return old is not None and new is not None and all(new[0][p] >= offset for p, offset in old[0].items())


def answer(line: Stack, uuid: str, wait: float = 20) -> dict[str, Any]:
    return httpx.get(f"{line.web_url}{RESPONSE}{uuid}", params={"wait": wait}, timeout=40).json()


def run_dag(line: Stack, dag_id: DagId, conf: dict[str, Any] | None = None, seconds: float = 240) -> dict[str, str]:
    """Triggers a DAG and returns its tasks' states once the run has ended; `run` is the run's own."""
    api = AirflowApi(line.settings, line.secrets)
    run_id = api.trigger(dag_id, conf)

    def ended() -> str | None:
        state = str(api.run(dag_id, run_id)["state"])
        return None if state in ACTIVE else state

    state = until(ended, seconds, f"the end of {dag_id}")
    return {task["task_id"]: task["state"] for task in api.tasks(dag_id, run_id)} | {"run": state}
