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
from tests.conftest import Mongo, Stack
from tests.integration.line import create_topic, until

HOUR = dt.timedelta(hours=1)
NOW = dt.datetime.now(dt.UTC)
VERSION, CHAMPION = "20260101T000000Z-00000000", "20260102T000000Z-00000000"


@pytest.fixture(autouse=True)
def fresh(app: Flask) -> None:
    """No status of another test's."""
    app.extensions.pop("predictor_status", None)


class Here:
    """The documents and the topic that the status is read from."""

    def __init__(self, stack: Stack, mongo: Mongo) -> None:
        self.settings, self.mongo = stack.settings, mongo
        self.ends = kafka.ends(stack.settings, REQUEST_TOPIC)

    def deployed(self, **changes: Any) -> State:
        state = State()
        started_at = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
        serving = state.next_deployment(VERSION).model_copy(update={"started_at": started_at})
        return change_state(self.mongo, state, **{"serving": serving, "generation": 1} | changes)

    def answered(self, milliseconds: list[float], age: float = 1) -> None:
        """Answers up to the topic's ends, the newest `age` seconds old."""
        for took in milliseconds:
            at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age)
            times = {"PredictedAt": at, "RequestedAt": at - dt.timedelta(milliseconds=took)}
            times["Timestamp"] = at - dt.timedelta(milliseconds=28_586_940_121)  # a client's clock
            for partition, end in enumerate(self.ends):
                place = {"RequestPartition": partition, "RequestOffset": end - 1, "Deployment": 1}
                self.mongo[Collection.RESPONSES].insert_one({"_id": str(uuid4()), **times, **place})

    def put(self, partition: int) -> None:
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap})
        producer.produce(REQUEST_TOPIC, b"{}", partition=partition, timestamp=1)  # as a client's clock says
        assert producer.flush(10) == 0

    def status(self) -> Status:
        return read_status(self.settings)


@pytest.fixture
def here(stack: Stack, mongo: Mongo) -> Here:
    return Here(stack, mongo)


def test_nothing_was_deployed_yet(here: Here) -> None:
    found = here.status()
    assert (found.condition, found.generation, found.events, found.problems) == (Condition.ABSENT, None, (), ())
    assert not found.healthy


def test_latency_comes_from_kafkas_times(here: Here) -> None:
    here.deployed()
    here.answered([9999.0], age=301)
    here.answered([float(took) for took in range(1, 101)])
    found = here.status()
    assert (found.condition, found.lag, found.problems) == (Condition.RUNNING, 0, ())
    assert (found.version, found.generation, found.wanted) == (VERSION, 1, Wanted.RUNNING)
    assert (found.p50_ms, found.p99_ms) == (50, 99)
    assert found.healthy
    shown = dict(status.rows(found))
    assert shown["Time to answer, p50 / p99"] == "50 / 99 ms"
    assert "running, this query for 2:00:" in shown["State"]


def test_answers_of_all_kinds_are_counted_on_kafka(stack: Stack, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    topics = [create_topic(stack, "answers"), create_topic(stack, "rejections")]
    monkeypatch.setattr(status, "PLACES", topics)
    here.deployed()
    assert here.status().answers == 0
    producer = Producer({"bootstrap.servers": here.settings.kafka_bootstrap})
    for ago in (310, 200, 1):
        for topic in topics:
            producer.produce(topic, b"{}", partition=0, timestamp=int((time.time() - ago) * 1000))
    assert producer.flush(10) == 0
    found = here.status()
    assert (found.answers, found.per_second) == (4, pytest.approx(4 / 300))
    assert dict(status.rows(found))["Answers on Kafka, last 5 min"] == "4, 0.01/s"


def test_lag_is_what_lies_behind_the_highest_answer(here: Here) -> None:
    here.deployed()
    here.answered([10.0])
    here.put(0)
    here.put(1)
    here.put(1)
    found = here.status()
    assert (found.lag, found.condition) == (3, Condition.RUNNING)
    rejected = {"_id": "x", "topic": REQUEST_TOPIC, "partition": 1, "offset": here.ends[1] + 1, "RejectedAt": NOW}
    here.mongo[Collection.REJECTED].insert_one(rejected)
    found = here.status()
    assert (found.lag, found.dead_letters_hour) == (1, 1), "a rejection is an answer"


def test_only_answers_of_the_topic_of_now_count(here: Here) -> None:
    here.deployed(topic_since=2)
    here.answered([10.0])  # by deployment 1
    here.put(0)
    everything = here.status().lag
    with kafka.reader(here.settings) as consumer:
        available = kafka.bounds(consumer, here.settings, REQUEST_TOPIC)
    assert everything == sum(high - low for low, high in available.values())
    here.mongo[Collection.RESPONSES].update_many({}, {"$set": {"Deployment": 2}})
    assert here.status().lag == 1
    here.mongo[Collection.RESPONSES].update_many(
        {"RequestPartition": 0}, {"$set": {"RequestOffset": here.ends[0] + 1_000_000}}
    )
    assert (here.status().lag or 0) > 1, "nobody can have answered what is not there"


def test_what_is_quarantined_does_not_wait(here: Here) -> None:
    gap = Gap(topic_id="id", partition=0, first=here.ends[0], last=here.ends[0] + 1, reason="150 MB")
    here.deployed(gaps=(gap,))
    here.answered([10.0])
    for _ in range(2):
        here.put(0)
    assert here.status().lag == 0
    here.put(0)
    assert here.status().lag == 1


def test_where_nothing_was_answered_all_that_the_topic_holds_waits(here: Here) -> None:
    here.deployed()
    here.put(0)
    assert here.status().lag == sum(here.ends) + 1
    here.mongo[Collection.REPLAYS].insert_one({"RequestPartition": 0, "RequestOffset": here.ends[0]})
    assert here.status().lag == here.ends[1], "a replay's answer is one, too"


def test_a_request_that_waits_too_long_is_silence(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.deployed()
    here.answered([10.0])
    here.put(0)
    assert here.status().condition is Condition.RUNNING
    monkeypatch.setattr(timeouts, "SILENT_SECONDS", 0)
    found = here.status()
    assert (found.condition, found.healthy) == (Condition.SILENT, False)
    assert "has no answer yet" in found.problems[0]


@pytest.mark.parametrize(
    ("change", "condition"),
    [({"wanted": Wanted.STOPPED}, Condition.STOPPED), ({"retiring": ("a",)}, Condition.CHANGING)],
)
def test_what_a_person_or_a_run_does_is_no_illness(here: Here, change: dict[str, Any], condition: Condition) -> None:
    here.deployed(**change)
    here.answered([10.0])
    found = here.status()
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
    here: Here, tmp_path: Path, *, change: dict[str, Any], age: dt.timedelta, problem: str | None
) -> None:
    settings = here.settings.model_copy(update={"home": tmp_path})
    settings.models.mkdir(parents=True)
    pointer = registry.Pointer(champion=CHAMPION, previous=VERSION, updated_at=dt.datetime.now(dt.UTC) - age)
    (settings.models / registry.POINTER).write_text(pointer.model_dump_json())
    here.deployed(**change)
    here.answered([10.0])
    found = read_status(settings)
    assert found.champion == CHAMPION
    assert [text.partition(";")[0] for text in found.problems] == ([problem] if problem else [])


def test_events_come_back_newest_first(here: Here) -> None:
    for generation in (1, 2):
        record(
            here.mongo,
            Event(At=NOW, Kind=Kind.REPAIRED, Generation=generation, Reason="gone", Seconds=1.5, DagRun="d/r"),
        )
    first, second = last_events(here.mongo, 2)
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


def test_an_address_that_is_none_is_a_problem_and_no_password_is_shown(here: Here) -> None:
    found = read_status(here.settings.model_copy(update={"mongo_uri": "mongodb://me:sec@ret@127.0.0.1/"}))
    assert found.condition is Condition.UNKNOWN
    assert "MONGO_URI" in found.problems[0]
    assert "ret" not in str(found)


def test_what_is_unreadable_leaves_the_rest(here: Here) -> None:
    here.deployed()
    here.mongo[Collection.STATE].update_one({}, {"$set": {"generation": "many"}})
    record(here.mongo, Event(At=NOW, Kind=Kind.REPAIRED, Generation=1))
    here.answered([10.0])
    found = here.status()
    assert (found.condition, found.lag, found.p50_ms, len(found.events)) == (Condition.UNKNOWN, 0, 10, 1)
    assert "predictor_state is unreadable" in found.problems[0]


def test_a_broker_that_is_away_leaves_the_rest(here: Here) -> None:
    here.deployed()
    found = read_status(here.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"}))
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


def test_page_and_metrics_say_the_same(client: FlaskClient, here: Here) -> None:
    here.deployed()
    here.answered([40.0])
    left = {"_id": str(uuid4()), "Timestamp": NOW, "PredictedAt": NOW + dt.timedelta(milliseconds=12), "Deployment": 1}
    here.mongo[Collection.CANARIES].insert_one(left)
    record(here.mongo, Event(At=NOW, Kind=Kind.CANARY_FAILED, Generation=1, Reason="<script>alert(1)</script>"))
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


def test_the_terminal_shows_the_same(here: Here) -> None:
    here.deployed(wanted=Wanted.STOPPED)
    here.answered([40.0])
    reason = "[STREAM_FAILED] [id = 1] died in [/opt/spark]"
    record(here.mongo, Event(At=NOW, Kind=Kind.REPAIRED, Generation=1, Reason=reason))
    console = Console(file=StringIO(), width=200, highlight=False)
    assert predictor_status(here.settings, console) == []
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("stopped", VERSION, "40 / 40 ms", reason, "A person stopped it", START):
        assert text in shown
    here.mongo[Collection.STATE].update_one({}, {"$set": {"generation": "many"}})
    assert predictor_status(here.settings, console) == ["predictor"]


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


def test_a_status_is_read_once_for_all_who_ask(client: FlaskClient, here: Here) -> None:
    here.deployed()
    before = client.get("/metrics").text
    here.mongo[Collection.STATE].delete_many({})
    assert client.get("/metrics").text == before
    client.application.extensions.pop("predictor_status")
    assert client.get("/metrics").text != before
