"""How the predictor does: `status()` on the real Kafka and MongoDB, the page, and the figures for Prometheus."""

from __future__ import annotations

import datetime as dt
import time
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from pymongo.database import Database
from rich.console import Console

from flight_delays.contract import REQUEST_TOPIC, Collection
from flight_delays.infra import kafka
from flight_delays.model import registry
from flight_delays.predictor import status, timeouts
from flight_delays.predictor.events import Event, Kind, last_events, record
from flight_delays.predictor.state import Failure, Gap, State, Wanted, change_state
from flight_delays.predictor.status import Condition, Status, read_status
from stack.console import predictor_status
from stack.steps import START
from tests.conftest import Stack
from tests.integration.line import create_topic, until

HOUR = dt.timedelta(hours=1)
NOW = dt.datetime.now(dt.UTC)
VERSION, CHAMPION = "20260101T000000Z-00000000", "20260102T000000Z-00000000"


@pytest.fixture(autouse=True)
def fresh(app: Flask) -> None:
    """No status of another test's."""
    app.extensions.pop("predictor_status", None)


@pytest.fixture
def ends(stack: Stack) -> list[int]:
    """The offsets at which the request topic ends."""
    return kafka.ends(stack.settings, REQUEST_TOPIC)


def deployed(mongo: Database[Any], **changes: Any) -> State:
    state = State()
    started_at = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
    serving = state.next_deployment(VERSION).model_copy(update={"started_at": started_at})
    return change_state(mongo, state, **{"serving": serving, "generation": 1} | changes)


def answered(mongo: Database[Any], ends: list[int], milliseconds: list[float], age: float = 1) -> None:
    """Answers up to the topic's ends, the newest `age` seconds old."""
    for took in milliseconds:
        at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age)
        for partition, end in enumerate(ends):
            mongo[Collection.RESPONSES].insert_one(
                {
                    "_id": str(uuid4()),
                    "PredictedAt": at,
                    "RequestedAt": at - dt.timedelta(milliseconds=took),
                    "Timestamp": at - dt.timedelta(milliseconds=28_586_940_121),  # a client's clock
                    "RequestPartition": partition,
                    "RequestOffset": end - 1,
                    "Deployment": 1,
                }
            )


def put(stack: Stack, partition: int) -> None:
    producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap})
    producer.produce(REQUEST_TOPIC, b"{}", partition=partition, timestamp=1)  # as a client's clock says
    assert producer.flush(10) == 0


def test_nothing_was_deployed_yet(stack: Stack, mongo: Database[Any]) -> None:
    found = read_status(stack.settings)
    assert (found.condition, found.generation, found.events, found.problems) == (Condition.ABSENT, None, (), ())
    assert not found.healthy


def test_latency_comes_from_kafkas_times(stack: Stack, mongo: Database[Any], ends: list[int]) -> None:
    deployed(mongo)
    answered(mongo, ends, [9999.0], age=301)
    answered(mongo, ends, [float(took) for took in range(1, 101)])
    found = read_status(stack.settings)
    assert (found.condition, found.lag, found.problems) == (Condition.RUNNING, 0, ())
    assert (found.version, found.generation, found.wanted) == (VERSION, 1, Wanted.RUNNING)
    assert (found.p50_ms, found.p99_ms) == (50, 99)
    assert found.healthy
    shown = dict(status.rows(found))
    assert shown["Time to answer, p50 / p99"] == "50 / 99 ms"
    assert "running, this query for 2:00:" in shown["State"]


def test_answers_of_all_kinds_are_counted_on_kafka(
    stack: Stack, mongo: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = [create_topic(stack, "answers"), create_topic(stack, "rejections")]
    monkeypatch.setattr(status, "PLACES", topics)
    deployed(mongo)
    assert read_status(stack.settings).answers == 0
    producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap})
    for ago in (310, 200, 1):
        for topic in topics:
            producer.produce(topic, b"{}", partition=0, timestamp=int((time.time() - ago) * 1000))
    assert producer.flush(10) == 0
    found = read_status(stack.settings)
    assert (found.answers, found.per_second) == (4, pytest.approx(4 / 300))
    assert dict(status.rows(found))["Answers on Kafka, last 5 min"] == "4, 0.01/s"


def test_lag_is_what_lies_behind_the_highest_answer(stack: Stack, mongo: Database[Any], ends: list[int]) -> None:
    deployed(mongo)
    answered(mongo, ends, [10.0])
    put(stack, 0)
    put(stack, 1)
    put(stack, 1)
    found = read_status(stack.settings)
    assert (found.lag, found.condition) == (3, Condition.RUNNING)
    rejected = {"_id": "x", "topic": REQUEST_TOPIC, "partition": 1, "offset": ends[1] + 1, "RejectedAt": NOW}
    mongo[Collection.REJECTED].insert_one(rejected)
    found = read_status(stack.settings)
    assert (found.lag, found.dead_letters_hour) == (1, 1), "a rejection is an answer"


def test_only_answers_of_the_topic_of_now_count(stack: Stack, mongo: Database[Any], ends: list[int]) -> None:
    deployed(mongo, topic_since=2)
    answered(mongo, ends, [10.0])  # by deployment 1
    put(stack, 0)
    everything = read_status(stack.settings).lag
    with kafka.reader(stack.settings) as consumer:
        available = kafka.bounds(consumer, stack.settings, REQUEST_TOPIC)
    assert everything == sum(high - low for low, high in available.values())
    mongo[Collection.RESPONSES].update_many({}, {"$set": {"Deployment": 2}})
    assert read_status(stack.settings).lag == 1
    mongo[Collection.RESPONSES].update_many({"RequestPartition": 0}, {"$set": {"RequestOffset": ends[0] + 1_000_000}})
    assert (read_status(stack.settings).lag or 0) > 1, "nobody can have answered what is not there"


def test_what_is_quarantined_does_not_wait(stack: Stack, mongo: Database[Any], ends: list[int]) -> None:
    gap = Gap(topic_id="id", partition=0, first=ends[0], last=ends[0] + 1, reason="150 MB")
    deployed(mongo, gaps=(gap,))
    answered(mongo, ends, [10.0])
    for _ in range(2):
        put(stack, 0)
    assert read_status(stack.settings).lag == 0
    put(stack, 0)
    assert read_status(stack.settings).lag == 1


def test_where_nothing_was_answered_all_that_the_topic_holds_waits(
    stack: Stack, mongo: Database[Any], ends: list[int]
) -> None:
    deployed(mongo)
    put(stack, 0)
    assert read_status(stack.settings).lag == sum(ends) + 1
    mongo[Collection.REPLAYS].insert_one({"RequestPartition": 0, "RequestOffset": ends[0]})
    assert read_status(stack.settings).lag == ends[1], "a replay's answer is one, too"


def test_a_request_that_waits_too_long_is_silence(
    stack: Stack, mongo: Database[Any], ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(mongo)
    answered(mongo, ends, [10.0])
    put(stack, 0)
    assert read_status(stack.settings).condition is Condition.RUNNING
    monkeypatch.setattr(timeouts, "SILENT_SECONDS", 0)
    found = read_status(stack.settings)
    assert (found.condition, found.healthy) == (Condition.SILENT, False)
    assert "has no answer yet" in found.problems[0]


@pytest.mark.parametrize(
    ("change", "condition"),
    [({"wanted": Wanted.STOPPED}, Condition.STOPPED), ({"retiring": ("a",)}, Condition.CHANGING)],
)
def test_what_a_person_or_a_run_does_is_no_illness(
    stack: Stack, mongo: Database[Any], ends: list[int], change: dict[str, Any], condition: Condition
) -> None:
    deployed(mongo, **change)
    answered(mongo, ends, [10.0])
    found = read_status(stack.settings)
    assert (found.condition, found.healthy) == (condition, True)


BROKEN = {CHAMPION: Failure(reason="it is broken", at=NOW)}
JUST_NOW, LONG_AGO = dt.timedelta(seconds=5), HOUR


@pytest.mark.parametrize(
    ("change", "age", "problem"),
    [
        ({"failed": BROKEN}, LONG_AGO, f"{VERSION} serves in place of the champion {CHAMPION}: it is broken"),
        ({}, LONG_AGO, f"{VERSION} serves in place of the champion {CHAMPION}: it was never deployed"),
        ({}, JUST_NOW, None),
        ({"failed": BROKEN, "wanted": Wanted.STOPPED}, LONG_AGO, None),
        ({"failed": BROKEN, "retiring": ("a",)}, LONG_AGO, None),
    ],
)
def test_who_serves_in_place_of_the_champion_is_said(
    stack: Stack,
    mongo: Database[Any],
    ends: list[int],
    tmp_path: Path,
    *,
    change: dict[str, Any],
    age: dt.timedelta,
    problem: str | None,
) -> None:
    settings = stack.settings.model_copy(update={"home": tmp_path})
    settings.models.mkdir(parents=True)
    pointer = registry.Pointer(champion=CHAMPION, previous=VERSION, updated_at=dt.datetime.now(dt.UTC) - age)
    (settings.models / registry.POINTER).write_text(pointer.model_dump_json())
    deployed(mongo, **change)
    answered(mongo, ends, [10.0])
    found = read_status(settings)
    assert found.champion == CHAMPION
    assert [text.partition(";")[0] for text in found.problems] == ([problem] if problem else [])


def test_events_come_back_newest_first(mongo: Database[Any]) -> None:
    for generation in (1, 2):
        record(
            mongo, Event(At=NOW, Kind=Kind.REPAIRED, Generation=generation, Reason="gone", Seconds=1.5, DagRun="d/r")
        )
    first, second = last_events(mongo, 2)
    assert (first.Generation, second.Generation) == (2, 1)
    assert (first.Reason, first.Seconds, first.DagRun) == ("gone", 1.5, "d/r")


def test_what_is_away_is_named(away: FlaskClient, app: Flask) -> None:
    found: Status = read_status(away.application.extensions["flight_delays"].settings)
    assert found.condition is Condition.UNKNOWN
    for text, problem in zip(
        ("Kafka does not answer at 127.0.0.1:1 ", "MongoDB does not answer at 127.0.0.1:1 "),
        found.problems,
        strict=True,
    ):
        assert problem.startswith(text)
    until(lambda: "MongoDB does not answer" in away.get("/status").text, 30, "the status", every=1)
    assert dict(status.rows(found))["Answers on Kafka, last 5 min"] == "unknown"
    shown = figures(away)
    assert shown["flight_delay_predictor_up", ""] == 0
    assert shown["flight_delay_predictor_condition", "unknown"] == 1
    assert ("flight_delay_predictor_requests_per_second", "") not in shown, "unknown is not none"


def test_an_address_that_is_none_is_a_problem_and_no_password_is_shown(stack: Stack) -> None:
    found = read_status(stack.settings.model_copy(update={"mongo_uri": "mongodb://me:sec@ret@127.0.0.1/"}))
    assert found.condition is Condition.UNKNOWN
    assert "MONGO_URI" in found.problems[0]
    assert "ret" not in str(found)


def test_what_is_unreadable_leaves_the_rest(stack: Stack, mongo: Database[Any], ends: list[int]) -> None:
    deployed(mongo)
    mongo[Collection.STATE].update_one({}, {"$set": {"generation": "many"}})
    record(mongo, Event(At=NOW, Kind=Kind.REPAIRED, Generation=1))
    answered(mongo, ends, [10.0])
    found = read_status(stack.settings)
    assert (found.condition, found.lag, found.p50_ms, len(found.events)) == (Condition.UNKNOWN, 0, 10, 1)
    assert "predictor_state is unreadable" in found.problems[0]


def test_a_broker_that_is_away_leaves_the_rest(stack: Stack, mongo: Database[Any]) -> None:
    deployed(mongo)
    found = read_status(stack.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"}))
    assert (found.version, found.lag) == (VERSION, None)
    assert dict(status.rows(found))["Requests waiting (lag)"] == "unknown"
    assert "Kafka does not answer at 127.0.0.1:1" in found.problems[0]


def figures(client: FlaskClient) -> dict[tuple[str, str], float]:
    """The samples of /metrics: by name, and the value of their one label."""
    response = client.get("/metrics")
    assert response.content_type.startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {
        (s.name, s.labels.get("version") or next(iter(s.labels.values()), "")): s.value
        for family in families
        for s in family.samples
    }


def test_page_and_metrics_say_the_same(client: FlaskClient, mongo: Database[Any], ends: list[int]) -> None:
    deployed(mongo)
    answered(mongo, ends, [40.0])
    left = {"_id": str(uuid4()), "Timestamp": NOW, "PredictedAt": NOW + dt.timedelta(milliseconds=12), "Deployment": 1}
    mongo[Collection.CANARIES].insert_one(left)
    record(mongo, Event(At=NOW, Kind=Kind.CANARY_FAILED, Generation=1, Reason="<script>alert(1)</script>"))
    found = figures(client)
    assert found["flight_delay_predictor_up", ""] == 1
    assert found["flight_delay_predictor_condition", "running"] == 1
    assert found["flight_delay_predictor_condition", "stopped"] == 0
    assert found["flight_delay_predictor_model_info", VERSION] == 1
    assert found["flight_delay_predictor_latency_seconds", "0.99"] == pytest.approx(0.04)
    assert found["flight_delay_predictor_lag_messages", ""] == 0
    assert found["flight_delay_predictor_canary_latency_seconds", ""] == pytest.approx(0.012)
    assert found["flight_delay_predictor_uptime_seconds", ""] == pytest.approx(7200, abs=60)
    page = client.get("/status").text
    for text in (VERSION, "40 / 40 ms", "canary failed", "12 ms", "&lt;script&gt;alert(1)"):
        assert text in page
    assert "<script>alert" not in page


def test_the_terminal_shows_the_same(stack: Stack, mongo: Database[Any], ends: list[int]) -> None:
    deployed(mongo, wanted=Wanted.STOPPED)
    answered(mongo, ends, [40.0])
    reason = "[STREAM_FAILED] [id = 1] died in [/opt/spark]"
    record(mongo, Event(At=NOW, Kind=Kind.REPAIRED, Generation=1, Reason=reason))
    console = Console(file=StringIO(), width=200, highlight=False)
    assert predictor_status(stack.settings, console) == []
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (
        "stopped",
        VERSION,
        "40 / 40 ms",
        reason,
        "A person stopped it",
        START,
    ):
        assert text in shown
    mongo[Collection.STATE].update_one({}, {"$set": {"generation": "many"}})
    assert predictor_status(stack.settings, console) == ["predictor"]


class Inline(HTMLParser):
    """Collects what the Content-Security-Policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        self.found += [f"{tag} {name}" for name in names if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)


def test_the_page_is_linked_and_holds_nothing_inline(client: FlaskClient) -> None:
    for place in ("/flights/delays/predict_kafka", "/flights/delays/scoreboard"):
        assert 'href="/status"' in client.get(place).text
    inline = Inline()
    inline.feed(client.get("/status").text)
    assert inline.found == []


def test_a_status_is_read_once_for_all_who_ask(client: FlaskClient, mongo: Database[Any], ends: list[int]) -> None:
    deployed(mongo)
    before = client.get("/metrics").text
    mongo[Collection.STATE].delete_many({})
    assert client.get("/metrics").text == before
    client.application.extensions.pop("predictor_status")
    assert client.get("/metrics").text != before
