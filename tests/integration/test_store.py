"""Look-ups in a real MongoDB-wire server, and what the embedded one promises: nothing acknowledged is lost."""

from __future__ import annotations

import datetime as dt
import threading
import time
from typing import Any
from uuid import uuid4

import pytest
from pymongo.errors import OperationFailure, PyMongoError

from flight_delays.answers.store import expire_canaries, find_answer, last_predictions
from flight_delays.contract import Collection
from flight_delays.infra.mongo import ensure_indexes
from flight_delays.predictor.workload import canary_id, find_canary
from tests.conftest import Mongo, Stack

pytestmark = pytest.mark.integration

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_indexes_may_be_ensured_again_and_hold(mongo: Mongo) -> None:
    ensure_indexes(mongo)
    ensure_indexes(mongo)
    distances = mongo[Collection.DISTANCES].index_information()
    assert [index["unique"] for index in distances.values() if index["key"] == [("Origin", 1), ("Dest", 1)]] == [True]
    assert [("UUID", 1)] in [index["key"] for index in mongo[Collection.REJECTED].index_information().values()]


def test_an_answer_is_found_and_a_prediction_comes_before_a_rejection(mongo: Mongo) -> None:
    uuid = str(uuid4())
    assert find_answer(mongo, uuid) is None
    mongo[Collection.REJECTED].insert_many(
        [{"_id": "t-0-1", "UUID": uuid, "reason": "empty"}, {"_id": "t-0-2", "UUID": uuid, "reason": "empty"}]
    )
    found = find_answer(mongo, uuid.upper())
    assert found is not None
    assert (found.status, found.document["reason"]) == ("REJECTED", "empty")
    mongo[Collection.RESPONSES].insert_one({"_id": uuid, "Prediction": 2})
    found = find_answer(mongo, uuid)
    assert found is not None
    assert (found.status, found.document["Prediction"]) == ("OK", 2)


def test_a_rejection_is_found_fast_among_many(mongo: Mongo) -> None:
    uuids = [str(uuid4()) for _ in range(20_000)]
    for begin in range(0, len(uuids), 1000):
        mongo[Collection.REJECTED].insert_many(
            [{"_id": f"t-0-{n}", "UUID": uuids[n], "payload": "x" * 300} for n in range(begin, begin + 1000)]
        )
    begin_at = time.perf_counter()
    for n in range(0, 20_000, 200):
        found = find_answer(mongo, uuids[n])
        assert found is not None
        assert found.document["_id"] == f"t-0-{n}"
        assert find_answer(mongo, str(uuid4())) is None
    assert time.perf_counter() - begin_at < 10  # 0.2 s by the index; a scan of them all takes 0.2 s each time


def test_last_predictions_are_the_newest(mongo: Mongo) -> None:
    responses = mongo[Collection.RESPONSES]
    documents = [{"_id": str(uuid4()), "n": n, "PredictedAt": NOW + dt.timedelta(seconds=n)} for n in range(5_000)]
    responses.insert_many(documents)
    assert [document["n"] for document in last_predictions(mongo, 3)] == [4999, 4998, 4997]
    by_time = responses.find({}).sort("PredictedAt", -1).skip(1).limit(2)
    assert [document["n"] for document in by_time] == [4998, 4997]
    assert responses.count_documents({"n": {"$lt": 10}}) == 10


def test_canaries_are_found_by_deployment_and_expire(mongo: Mongo) -> None:
    uuid = str(uuid4())
    now = dt.datetime.now(dt.UTC)
    mongo[Collection.CANARIES].insert_many(
        [
            {"_id": canary_id(uuid, 3), "Deployment": 3, "PredictedAt": now - dt.timedelta(hours=3)},
            {"_id": canary_id(uuid, 4), "Deployment": 4, "PredictedAt": now},
        ]
    )
    found = find_canary(mongo, uuid.upper(), 3)
    assert found is not None
    assert found["Deployment"] == 3
    assert found["PredictedAt"].tzinfo is not None
    assert find_canary(mongo, uuid, 5) is None
    assert expire_canaries(mongo, dt.timedelta(hours=2)) == 1
    assert find_canary(mongo, uuid, 3) is None
    assert find_canary(mongo, uuid, 4) is not None


NOT_SUPPORTED = (59, 115)
"""MongoDB's CommandNotFound and CommandNotSupported."""

FIRST_CONTACT: list[dict[str, Any]] = [
    *({name: 1} for name in ("hello", "buildInfo", "hostInfo", "getCmdLineOpts", "atlasVersion", "top")),
    *({name: 1} for name in ("connectionStatus", "serverStatus", "dbStats", "usersInfo")),
    {"getParameter": 1, "featureCompatibilityVersion": 1},
    {"getLog": "startupWarnings"},
    {"aggregate": 1, "pipeline": [{"$currentOp": {}}], "cursor": {}},
    {"listDatabases": 1, "nameOnly": True},
    {"listCollections": 1, "nameOnly": True, "authorizedCollections": True},
    {"collStats": "flight_delay_classification_response"},
    {"explain": {"find": "flight_delay_classification_response"}},
]


def test_what_mongosh_and_compass_ask_first_is_answered_or_not_supported(mongo: Mongo) -> None:
    mongo[Collection.RESPONSES].insert_one({"_id": "one"})
    for command in FIRST_CONTACT:
        database = mongo if {*command} & {"listCollections", "dbStats", "collStats", "explain"} else mongo.client.admin
        reply = database.command(command, check=False)
        assert reply["ok"] == 1 or reply["code"] in NOT_SUPPORTED, (command, reply)


def test_aggregations(mongo: Mongo) -> None:
    answers = mongo[Collection.RESPONSES]
    answers.insert_many([{"_id": str(n), "n": n % 3} for n in range(300)])
    page = answers.aggregate([{"$match": {"n": 1}}, {"$project": {"_id": 1}}], batchSize=7)
    assert [found["_id"] for found in page] == [str(n) for n in range(1, 300, 3)]
    answers.insert_one({"_id": "text", "n": "a $sample"})
    assert [found["_id"] for found in answers.aggregate([{"$match": {"n": "a $sample"}}])] == ["text"]
    list(answers.aggregate([{"$match": {"n": 2}}, {"$out": "predictor_events"}]))
    assert mongo["predictor_events"].count_documents({"n": 2}) == 100
    sample = {"$sample": {"size": 5}}
    for refused in (
        answers.watch,
        lambda: answers.aggregate([sample]),
        lambda: answers.aggregate([{"$facet": {"some": [sample]}}]),
    ):
        with pytest.raises(OperationFailure) as caught:
            refused()
        assert caught.value.code in NOT_SUPPORTED


def test_kill_9_of_the_embedded_server_loses_nothing_acknowledged(stack: Stack, mongo: Mongo) -> None:
    acknowledged: list[str] = []
    stop = threading.Event()

    def load() -> None:
        size = 1
        while not stop.is_set():
            ids = [str(uuid4()) for _ in range(size)]
            try:
                mongo[Collection.RESPONSES].insert_many([{"_id": uuid, "text": "x" * 400} for uuid in ids])
                acknowledged.extend(ids)
            except PyMongoError:
                time.sleep(0.02)
            size = 51 - size  # one by one and in batches

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(3):
            before = len(acknowledged)
            while len(acknowledged) < before + 500:
                time.sleep(0.05)
            stack.kill("mongo")
            time.sleep(0.2)
            stack.await_ready("mongo")
    finally:
        stop.set()
        thread.join()
    stored = {document["_id"] for document in mongo[Collection.RESPONSES].find({}, {"_id": 1})}
    assert set(acknowledged) <= stored
