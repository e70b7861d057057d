"""The endpoint that gives a flight's answer."""

from __future__ import annotations

import datetime as dt
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pymongo.database import Database

from flight_delays.contract import Collection
from flight_delays.model.registry import METADATA, Metadata, Params, Period, Scores
from tests.web.form import RESPONSE
from webapp import create_app
from webapp.polling import AnswerPoller
from webapp.services import Services

pytestmark = pytest.mark.integration

VERSION = "20260101T030000Z-1a2b3c4d"


@pytest.fixture
def model(stack: Any) -> Path:
    """The metadata of a model that has seen UA from EWR to SFO only."""
    period = Period(first=dt.date(2013, 1, 1), last=dt.date(2013, 10, 31), rows=1)
    scores = Scores(rows=1, accuracy=0.5, macro_f1=0.5, log_loss=1, brier=0.5, calibration_error=0.1)
    metadata = Metadata(
        trained_at=dt.datetime(2026, 1, 1, 3, tzinfo=dt.UTC),
        params=Params(trees=20, depth=5, seed=1, holdout_months=2, max_bins=300),
        categorical=("Carrier", "Origin", "Dest", "Route"),
        numeric=("DepDelay",),
        vocabulary={
            "Carrier": ["UA"],
            "Origin": ["EWR"],
            "Dest": ["SFO"],
            "Route": ["EWR-SFO"],
            "CarrierRoute": ["UA-EWR-SFO"],  # no field of an answer
        },
        training=period,
        holdout=period,
        fingerprint="x",
        code_version="x",
        spark_version="4.2.0",
        metrics=scores,
        baselines={},
        training_seconds=1,
    )
    folder: Path = stack.settings.models / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METADATA).write_text(metadata.model_dump_json())
    return folder


def response(uuid: str, **other: Any) -> dict[str, Any]:
    """A document as the sink writes it."""
    return {
        "_id": uuid,
        "UUID": uuid,
        "Timestamp": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "Carrier": "UA",
        "FlightDate": dt.datetime(2013, 12, 20, tzinfo=dt.UTC),
        "FlightNum": "1000",
        "Origin": "EWR",
        "Dest": "SFO",
        "DepDelay": 5.0,
        "Distance": 2565.0,
        "DayOfYear": 354,
        "DayOfMonth": 20,
        "DayOfWeek": 5,
        "Route": "EWR-SFO",
        "Prediction": 2,
        "Probability": [0.1, 0.2, 0.6, 0.1],
        "ModelVersion": VERSION,
        "Deployment": 1,
        "RequestPartition": 0,
        "RequestOffset": 7,
        "PredictedAt": dt.datetime(2026, 1, 2, 3, 4, 5, 12_000, tzinfo=dt.UTC),
        **other,
    }


def test_prediction(client: FlaskClient, mongo: Database[dict[str, Any]], model: Path) -> None:
    uuid = str(uuid4())
    document = response(uuid)
    mongo[Collection.RESPONSES].insert_one(dict(document))

    found = client.get(RESPONSE + uuid.upper())

    assert found.status_code == 200
    del document["_id"]
    assert found.json == {
        "status": "OK",
        "id": uuid,
        "prediction": {
            **document,
            "Timestamp": "2026-01-02T03:04:05Z",
            "FlightDate": "2013-12-20",
            "PredictedAt": "2026-01-02T03:04:05.012000Z",
        },
        "label": "Slightly Late (0-30 Minute Delay)",
        "unseen": [],
    }


def test_what_the_model_never_saw_is_named(client: FlaskClient, mongo: Database[dict[str, Any]], model: Path) -> None:
    strange, gone = str(uuid4()), str(uuid4())
    mongo[Collection.RESPONSES].insert_one(response(strange, Carrier="AA", Origin="ATL", Route="ATL-SFO"))
    mongo[Collection.RESPONSES].insert_one(response(gone, ModelVersion="20250101T030000Z-00000000"))

    assert set(client.get(RESPONSE + strange).json["unseen"]) == {"Carrier", "Origin", "Route"}
    assert client.get(RESPONSE + gone).json["unseen"] is None


def test_rejection(client: FlaskClient, mongo: Database[dict[str, Any]]) -> None:
    uuid = str(uuid4())
    mongo[Collection.REJECTED].insert_one({"_id": "t-0-1", "UUID": uuid, "reason": "out_of_range", "field": "DepDelay"})

    expected = {"status": "REJECTED", "id": uuid, "reason": "out_of_range", "field": "DepDelay"}
    assert client.get(RESPONSE + uuid).json == expected
    assert client.get(RESPONSE + uuid + "?wait=5").json == expected


def test_wait_ends_as_soon_as_the_answer_can_be_read(
    app: Flask, mongo: Database[dict[str, Any]], client: FlaskClient
) -> None:
    """Ten wait for ten answers that come one after another; each gets its own, soon."""
    uuids = [str(uuid4()) for _ in range(10)]
    written: dict[str, float] = {}
    read: dict[str, tuple[float, Any]] = {}

    def ask(uuid: str) -> None:
        answer = app.test_client().get(f"{RESPONSE}{uuid}?wait=20").json
        read[uuid] = (time.monotonic(), answer)

    threads = [threading.Thread(target=ask, args=(uuid,)) for uuid in uuids]
    for thread in threads:
        thread.start()
    for uuid in uuids:
        time.sleep(0.05)
        mongo[Collection.RESPONSES].insert_one(response(uuid))
        written[uuid] = time.monotonic()
    for thread in threads:
        thread.join(timeout=10)

    assert [read[uuid][1]["prediction"]["UUID"] for uuid in uuids] == uuids
    late = sorted(read[uuid][0] - written[uuid] for uuid in uuids)
    assert late[len(late) // 2] < 0.1  # two looks a second would be later


def test_wait_without_an_answer(client: FlaskClient) -> None:
    begin = time.monotonic()
    answer = client.get(f"{RESPONSE}{uuid4()}?wait=0.5")

    assert answer.json["status"] == "WAIT"
    assert 0.5 <= time.monotonic() - begin < 2


def test_waiting_requests_leave_threads_to_others(stack: Any, mongo: Database[dict[str, Any]]) -> None:
    app = create_app(stack.settings.model_copy(update={"web_threads": 4}))
    held = [threading.Thread(target=app.test_client().get, args=(f"{RESPONSE}{uuid4()}?wait=6",)) for _ in range(3)]
    for thread in held:
        thread.start()
    deadline = time.monotonic() + 5
    while len(app.extensions[Services.KEY].waiting._futures) < len(held):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert app.test_client().get(f"{RESPONSE}{uuid4()}?wait=30").json["status"] == "WAIT"
    assert all(thread.is_alive() for thread in held)  # answered while they still wait
    for thread in held:
        thread.join()


def test_many_that_wait_in_vain_cost_little(mongo: Database[dict[str, Any]]) -> None:
    """In an outage new requests arrive and none is answered: what repairs it needs the processor."""
    looks = []

    def database() -> Database[dict[str, Any]]:
        looks.append(time.monotonic())
        return mongo

    waiting = AnswerPoller(database, limit=48)
    held = [threading.Thread(target=waiting.wait, args=(str(uuid4()), 3)) for _ in range(40)]
    for thread in held:
        thread.start()
        time.sleep(0.05)
    for thread in held:
        thread.join()

    # It waits for the database twice a look; without a bound it would do so 300 times a second.
    begin = looks[0] + 2.1  # all forty wait, and the last has done so for less than a second
    assert 2 <= sum(begin <= look <= begin + 0.8 for look in looks) <= 0.8 * 2 * 1000 / 40 + 4


@pytest.mark.parametrize("wait", ["abc", "nan", "-1", ""])
def test_bad_wait(client: FlaskClient, wait: str) -> None:
    refused = client.get(f"{RESPONSE}{uuid4()}?wait={wait}")

    assert (refused.status_code, refused.json["code"], refused.json["field"]) == (400, "invalid_wait", "wait")
