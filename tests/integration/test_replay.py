"""Replays through the whole line, and drift."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from confluent_kafka import Producer

from flight_delays.answers import drift, replay
from flight_delays.contract import REQUEST_TOPIC, Collection, DagId
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.errors import DataError
from flight_delays.infra import mongo
from flight_delays.model import metrics, registry
from tests import versions
from tests.conftest import Mongo, Stack
from tests.flights import import_records
from tests.integration.line import messages_on, run_dag

pytestmark = pytest.mark.integration

PLAN = replay.Plan(dt.date(2013, 12, 24), dt.date(2013, 12, 25), rate=100, limit=150)


@pytest.fixture(scope="module")
def november(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    import_records(NycFlights13(), records_dir=folder, months="2013-11")
    return folder


# --- the whole line --------------------------------------------------------------------------------------------------


def run(line: Stack, name: str, plan: replay.Plan = PLAN) -> dict[str, Any]:
    producer = Producer({"bootstrap.servers": line.settings.kafka_bootstrap, "partitioner": "consistent"})
    return replay.run(name, plan, line.settings, mongo.connect(line.settings), producer)


def test_a_replay_is_answered_scored_and_kept_apart(line: Stack) -> None:
    db, name = mongo.connect(line.settings), f"test-{uuid4()}"
    before = db[Collection.RESPONSES].count_documents({})
    score = run(line, name)
    assert (score["State"], score["Sent"], score["Answered"], score["Rejected"]) == ("done", 150, 150, 0)
    assert db[Collection.SCOREBOARD].find_one({"_id": name})["SoFar"] == score["SoFar"]  # type: ignore[index]
    assert db[Collection.RESPONSES].count_documents({}) == before

    flights = replay.flights(line.settings.records, PLAN)
    uuids = [replay.uuid_of(name, number) for number in range(150)]
    answers = {answer["_id"]: answer for answer in db[Collection.REPLAYS].find({"_id": {"$in": uuids}})}
    assert set(answers) == set(uuids)
    assert all(answer["Replay"] == name for answer in answers.values())
    assert answers[uuids[0]]["FlightNum"] == flights["FlightNum"][0]
    assert "DestGain7Days" in answers[uuids[0]], "what was known at departure goes with it"
    probabilities = np.asarray([answers[uuid]["Probability"] for uuid in uuids])
    again = metrics.score(np.digitize(flights["ArrDelay"], [-15, 0, 30]), probabilities)
    assert score["SoFar"] == pytest.approx(again.model_dump())

    sent = [message for message in messages_on(line, REQUEST_TOPIC) if name.encode() in (message.value() or b"")]
    assert len(sent) == 150
    assert not any(b"ArrDelay" in (message.value() or b"") for message in sent), "nobody is told what happened"
    assert run(line, name)["Answered"] == 150
    sent = [message for message in messages_on(line, REQUEST_TOPIC) if name.encode() in (message.value() or b"")]
    assert len(sent) == 150, "a second try sends nothing again"


def test_a_run_that_was_cut_off_goes_on(line: Stack) -> None:
    name = f"test-{uuid4()}"
    run(line, name, replay.Plan(PLAN.first, PLAN.last, PLAN.rate, 40))  # the first 40 of the same flights
    score = run(line, name)
    assert (score["Sent"], score["Answered"]) == (150, 150)
    sent = [message for message in messages_on(line, REQUEST_TOPIC) if name.encode() in (message.value() or b"")]
    assert len(sent) == 150


def test_the_dags_replay_and_then_judge_its_drift(line: Stack) -> None:
    conf = {"first": "2013-12-24", "last": "2013-12-24", "rate": 200, "limit": 120}
    assert run_dag(line, DagId.REPLAY, conf) == {"replay": "success", "run": "success"}
    newest = next(iter(mongo.connect(line.settings)[Collection.SCOREBOARD].find().sort("$natural", -1).limit(1)))
    assert (newest["State"], newest["Answered"]) == ("done", 120)
    assert newest["Expected"]["rows"] > 0, "the holdout's scores stand beside it"
    judged = {"replay": newest["_id"], "at_least": 50}
    assert run_dag(line, DagId.DRIFT, judged)["run"] == "success"
    assert run_dag(line, DagId.DRIFT, {**judged, "alarm": 0.01})["drift"] == "failed"


def test_days_without_flights_are_an_error_that_names_the_months(november: Path) -> None:
    with pytest.raises(DataError, match=r"No flights from 2016-01-01 .*months: 2013-11 to 2013-11"):
        replay.flights(november, replay.Plan(dt.date(2016, 1, 1), dt.date(2016, 1, 2), 1))


# --- drift -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path) -> Path:
    period = registry.Period(first=dt.date(2013, 11, 1), last=dt.date(2013, 11, 30), rows=27_000)
    version = registry.register(tmp_path / "models", versions.stage(tmp_path / "staged", training=period))
    registry.promote(tmp_path / "models", version)
    return tmp_path / "models"


def ask(mongo: Mongo, november: Path, **changes: Any) -> None:
    """Answers to people about flights of November, as the sink stores them."""
    plan = replay.Plan(dt.date(2013, 11, 1), dt.date(2013, 11, 30), 1)
    flights = replay.flights(november, plan).sample(2000, random_state=3).assign(**changes)
    flights["Route"] = flights["Origin"] + "-" + flights["Dest"]
    flights["DayOfWeek"] = [day.isoweekday() for day in flights["FlightDate"]]
    rows = flights.drop(columns="FlightDate").to_dict("records")
    now = dt.datetime.now(dt.UTC)
    mongo[Collection.RESPONSES].insert_many({**row, "_id": str(uuid4()), "PredictedAt": now} for row in rows)


SINCE = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


def test_flights_like_those_of_training_have_not_drifted(mongo: Mongo, november: Path, models: Path) -> None:
    ask(mongo, november)
    found = drift.report(mongo, models, november, since=SINCE, alarm=0.2)
    assert found["asked"] == 2000
    assert max(found["distances"].values()) < 0.15, found
    assert set(found["unseen"].values()) == {0.0}


def test_later_flights_to_elsewhere_have_drifted(mongo: Mongo, november: Path, models: Path) -> None:
    ask(mongo, november, DepDelay=300.0, Dest="XXX")
    with pytest.raises(drift.DriftError, match=r"DepDelay.*Dest.*FLIGHTS_DRIFT_ALARM"):
        drift.report(mongo, models, november, since=SINCE, alarm=0.3)
    found = drift.report(mongo, models, november, since=SINCE)
    assert found["distances"]["DepDelay"] > 0.95
    assert found["unseen"]["Dest"] == 1
    assert found["distances"]["Carrier"] < 0.1


def test_old_answers_and_too_few_are_not_judged(mongo: Mongo, november: Path, models: Path) -> None:
    ask(mongo, november)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    assert drift.report(mongo, models, november, since=later, alarm=0.01)["asked"] == 0
    # the first day of an installation: no model, no answers, and no failed run for a person to look into
    assert drift.report(mongo, models / "none", november, since=later)["model"] is None
