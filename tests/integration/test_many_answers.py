"""300,000 answers in the embedded MongoDB, with its normal heap: nothing that reads them ends it."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pymongo.errors import DocumentTooLarge, OperationFailure, PyMongoError

from flight_delays.answers import dead_letters
from flight_delays.contract import Collection
from flight_delays.data import conditions, distances
from flight_delays.infra import mongo
from flight_delays.predictor.state import read_state
from flight_delays.predictor.status import read_status
from flight_delays.settings import get_settings
from flight_delays_airflow import maintenance
from tests.conftest import Mongo, Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

COUNT = 300_000
REJECTED = 20_000
EXPIRED = 250
NOW = dt.datetime.now(dt.UTC)
EXCEEDED = 146  # MongoDB's ExceededMemoryLimit


def answer(number: int) -> dict[str, Any]:
    """Of the last day, apart from the first ones, which are old enough to expire."""
    uuid = str(UUID(int=number * 7_919 << 64 | number))
    at = NOW - dt.timedelta(days=100) if number < EXPIRED else NOW - dt.timedelta(seconds=(COUNT - number) / 4)
    place = {"RequestPartition": number % 2, "RequestOffset": number // 2}
    flight = {"Carrier": "AA", "Origin": "ATL", "Dest": "SFO", "Route": "ATL-SFO", "FlightNum": "1519"}
    flight |= {
        "FlightDate": dt.datetime(2016, 12, 25, tzinfo=dt.UTC),
        "DepDelay": float(number % 90),
        "Distance": 2139.0,
    }
    result = {"Prediction": number % 4, "Probability": [0.1, 0.2, 0.3, 0.4], "ModelVersion": "v", "Deployment": 1}
    times = {"Timestamp": at, "PredictedAt": at, "DayOfYear": 360, "DayOfMonth": 25, "DayOfWeek": 7}
    return {"_id": uuid, "UUID": uuid, **flight, **result, **times, **place}


def rejected(number: int) -> dict[str, Any]:
    document = {"_id": f"flight_delay_classification_request-0-{number}", "UUID": str(uuid4()), "payload": "x" * 500}
    return document | {"reason": "empty", "partition": 0, "offset": number, "RejectedAt": NOW, "field": None}


@pytest.fixture(scope="module")
def many(stack: Stack) -> Iterator[Mongo]:
    """The database with all of them, for every test of this module; dropped afterwards, which is fast."""
    # The heartbeat's timeout is that of connecting: one command over all answers takes longer than the web app's 2 s.
    timeouts = dict.fromkeys(("socketTimeoutMS", "connectTimeoutMS", "serverSelectionTimeoutMS"), 300_000)
    db = mongo.connect(stack.settings, **timeouts)
    for name in Collection:
        db.drop_collection(name)
    mongo.ensure_indexes(db)
    for collection, make, count in ((Collection.RESPONSES, answer, COUNT), (Collection.REJECTED, rejected, REJECTED)):
        for begin in range(0, count, 1_000):
            db[collection].insert_many((make(number) for number in range(begin, begin + 1_000)), ordered=False)
    try:
        yield db
    finally:
        for name in Collection:
            db.drop_collection(name)
        db.client.close()


@pytest.fixture(autouse=True)
def same_server(stack: Stack, many: Mongo) -> Iterator[None]:
    before = stack.supervisor.states()["mongo"]["pid"]
    yield
    assert many.client.admin.command("ping")["ok"] == 1
    assert stack.supervisor.states()["mongo"]["pid"] == before, "the embedded MongoDB ended"


@pytest.mark.parametrize("batch_size", [0, COUNT])
def test_an_unsorted_read_streams(many: Mongo, batch_size: int) -> None:
    answers = many[Collection.RESPONSES]
    assert sum(1 for _ in answers.find({}, {"Route": 1}).batch_size(batch_size)) == COUNT
    some = answers.find({"Carrier": "AA"}).skip(10).limit(120_000).batch_size(batch_size)
    assert [found["RequestOffset"] for found in some][::20_000] == [(10 + n) // 2 for n in range(0, 120_000, 20_000)]
    assert answers.count_documents({"Route": "ATL-SFO"}) == COUNT


@pytest.mark.slow
def test_many_read_at_once_and_some_give_up(many: Mongo) -> None:
    answers = many[Collection.RESPONSES]
    abandoned = [answers.find().batch_size(10) for _ in range(150)]
    for cursor in abandoned:
        next(cursor)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: sum(1 for _ in answers.find()), range(4))) == [COUNT] * 4
    with pytest.raises(OperationFailure, match=r"Cursor id .* does not exist"):
        list(abandoned[0])
    assert len(list(abandoned[-1])) == COUNT - 1
    killed = answers.find().batch_size(10)
    next(killed)
    assert killed.cursor_id
    many.command("killCursors", str(Collection.RESPONSES), cursors=[killed.cursor_id])
    with pytest.raises(OperationFailure, match="does not exist"):
        list(killed)


def test_a_read_goes_on_while_documents_come_go_and_change(many: Mongo) -> None:
    """Each document that stays is seen once; H2 moves what it stores all the time."""
    events = many[Collection.EVENTS]
    events.insert_many({"_id": n, "text": "x" * 300} for n in range(60_000))
    ended = threading.Event()

    def write() -> None:
        n = 60_000
        while not ended.is_set():
            events.insert_many([{"_id": n + i, "text": "x" * 300} for i in range(500)])
            events.update_many({"_id": {"$in": list(range(0, 60_000, 601))}}, {"$set": {"n": n}})
            events.delete_many({"_id": {"$in": list(range(n, n + 500))}})
            n += 500

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            seen = [found["_id"] for found in events.find({}, {"_id": 1}).batch_size(1_000) if found["_id"] < 60_000]
            assert seen == list(range(60_000))
    finally:
        ended.set()
        thread.join()


REFUSED: dict[str, Callable[[Any], Any]] = {
    "sort": lambda answers: list(answers.find().sort("Distance", 1)),
    "sort with a large limit": lambda answers: list(answers.find().sort("Distance", 1).limit(200_000)),
    "group of all": lambda answers: list(answers.aggregate([{"$group": {"_id": 0, "all": {"$push": "$$ROOT"}}}])),
    "facet": lambda answers: list(answers.aggregate([{"$facet": {"all": [{"$match": {}}]}}])),
    "match of all": lambda answers: list(answers.aggregate([{"$match": {"Route": "ATL-SFO"}}])),
    "sort of an aggregation": lambda answers: list(answers.aggregate([{"$sort": {"Distance": 1}}])),
}


def test_what_does_not_fit_is_an_error_also_several_at_once(many: Mongo) -> None:
    def code(what: str) -> int | None:
        try:
            REFUSED[what](many[Collection.RESPONSES])
        except OperationFailure as error:
            return error.code
        return 0

    with ThreadPoolExecutor(len(REFUSED)) as pool:
        assert dict(zip(REFUSED, pool.map(code, REFUSED), strict=True)) == dict.fromkeys(REFUSED, EXCEEDED)
    assert code("sort") == EXCEEDED
    assert len(list(many[Collection.RESPONSES].find().sort("RequestOffset", -1).limit(50))) == 50


def test_large_results_and_messages_are_errors(many: Mongo) -> None:
    answers, events = many[Collection.RESPONSES], many[Collection.EVENTS]
    with pytest.raises(OperationFailure) as refused:
        answers.distinct("_id")
    assert refused.value.code in (EXCEEDED, 10334)  # BSONObjectTooLarge
    assert sorted(answers.distinct("Prediction")) == [0, 1, 2, 3]
    with pytest.raises(DocumentTooLarge):
        events.insert_one({"text": "x" * 15_900_000})
    with pytest.raises(DocumentTooLarge):
        answers.find_one({"_id": {"$in": [str(uuid4()) for _ in range(200_000)]}})
    texts = [{"_id": f"large {n}", "text": "x" * 47_000} for n in range(1_000)]
    assert len(events.insert_many(texts).inserted_ids) == 1_000
    assert sum(len(found["text"]) for found in events.find({"_id": {"$regex": "^large"}})) == 47_000_000


def test_an_answer_is_found_by_its_uuid_as_fast_as_by_its_id(many: Mongo) -> None:
    """As the original's web app polls; each scan of them all takes more than a second."""
    answers = many[Collection.RESPONSES]
    for number in range(0, COUNT, 1_000):
        found = answers.find_one({"UUID": answer(number)["_id"]})
        assert found is not None
        assert found["RequestOffset"] == number // 2
        assert answers.find_one({"UUID": answer(number)["_id"], "Prediction": 9}) is None
        assert answers.find_one({"UUID": str(uuid4())}) is None
    assert len(list(answers.find({"UUID": {"$in": [answer(n)["_id"] for n in range(2_000)]}}))) == 2_000
    assert [("UUID", 1)] not in [index["key"] for index in answers.index_information().values()], "costs inserts"


def test_no_dag_and_no_page_ends_it(
    stack: Stack, many: Mongo, web_app: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flight_delays_airflow import flight_delay_dead_letters as rejected_dag
    from flight_delays_airflow import flight_delay_drift as drift_dag

    host, port = many.client.address or ("127.0.0.1", 27017)
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_DEFAULT", f"mongo://{host}:{port}/")
    monkeypatch.setenv("FLIGHTS_HOME", str(tmp_path))
    monkeypatch.setenv("MONGO_URI", stack.settings.mongo_uri)
    get_settings.cache_clear()
    try:
        drift = drift_dag.drift({"days": 7, "replay": None, "at_least": COUNT, "alarm": 0})
        assert drift["asked"] == 50_000
        assert drift_dag.drift({"days": 7, "replay": "none", "at_least": 1, "alarm": 0})["asked"] == 0
        assert rejected_dag.report({"hours": 24})["rejected"] == REJECTED
        chosen = {"since": NOW - dt.timedelta(days=1), "reasons": ["empty"], "limit": 500}
        with pytest.raises(dead_letters.DataError, match="More than 500"):
            dead_letters.choose(many[Collection.REJECTED], **chosen)
        params = dict.fromkeys(("answer_days", "replay_days", "rejected_days", "event_days", "checkpoint_days"), 90)
        for dry_run in (True, False):
            assert f"{EXPIRED} documents" in maintenance.answers({**params, "dry_run": dry_run})
            for job in (maintenance.replays, maintenance.rejected, maintenance.models, maintenance.checkpoints):
                assert job({**params, "models": 3, "dry_run": dry_run}).startswith("0 ")
        pairs = distances.read_pairs(distances.PAIRS_FILE)
        assert distances.import_distances(many[Collection.DISTANCES], pairs)["total"] == len(pairs)
        documents = ({"_id": f"gain/ATL/{n}", "sum": 1.0, "count": 1} for n in range(20_000))
        assert conditions.import_documents(many[Collection.CONDITIONS], documents)["written"] == 20_000
        assert read_state(many).serving is None
    finally:
        get_settings.cache_clear()

    last = answer(COUNT - 1)["_id"]
    with web_app() as url, httpx.Client(base_url=url, timeout=60) as client:
        response = "/flights/delays/predict/classify_realtime/response"
        assert client.get(f"{response}/{last}").json()["status"] == "OK"
        assert client.get(f"{response}/{uuid4()}?wait=1").json()["status"] == "WAIT"
        form = "/flights/delays/predict_kafka"
        for page in ("/", form, "/flights/delays/scoreboard", "/flights/delays/scoreboard/score", "/healthz"):
            assert client.get(page, follow_redirects=True).status_code == 200, page
        assert "MongoDB does not answer" not in client.get("/status").text
        assert "flight" in client.get("/metrics").text
    found = read_status(stack.settings)
    assert found.dead_letters_hour is not None, found.problems
    assert not [problem for problem in found.problems if "MongoDB" in problem]


@pytest.mark.slow
def test_all_are_changed_and_deleted_by_one_command(many: Mongo) -> None:
    """The last test of the module: nothing is left. One command is refused where it does not fit, never the server."""
    answers = many[Collection.RESPONSES]
    left = answers.estimated_document_count()
    assert answers.update_many({}, {"$set": {"Seen": True}}).modified_count == left
    with pytest.raises(PyMongoError):
        answers.find_one({"$where": "this is no operator"})
    assert answers.delete_many({"Seen": True}).deleted_count == left
    assert answers.find_one() is None
