"""Retention of documents and checkpoints on the real embedded MongoDB, and the size of its file."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database

from flight_delays import maintenance
from flight_delays.answers.store import find_answer
from flight_delays.contract import Collection
from flight_delays.infra.mongo import database
from tests.conftest import Stack

pytestmark = pytest.mark.integration


def documents(count: int, days: float, collection: Collection = Collection.RESPONSES) -> list[dict[str, Any]]:
    then = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    return [{"_id": str(uuid4()), maintenance.TIME_OF[collection]: then, "text": "x" * 350} for _ in range(count)]


@pytest.mark.parametrize("collection", list(maintenance.TIME_OF))
def test_old_documents_go_and_young_ones_stay(mongo: Database[dict[str, Any]], collection: Collection) -> None:
    old, young = documents(350, 91, collection), documents(250, 89, collection)
    # at the border they come mixed, as from two partitions; one has no time at all
    mixed = [*old[:300], young[0], *old[300:], {"_id": "timeless"}, *young[1:]]
    for begin in range(0, len(mixed), 100):
        mongo[collection].insert_many(mixed[begin : begin + 100])
    assert maintenance.expire(mongo, collection, 90, dry_run=True) >= 300
    assert len(list(mongo[collection].find({}))) == len(mixed)
    assert maintenance.expire(mongo, collection, 90) + maintenance.expire(mongo, collection, 90) == 350
    left = [document["_id"] for document in mongo[collection].find({})]
    assert left == [document["_id"] for document in mixed if document not in old]
    assert maintenance.expire(mongo, collection, 90) == 0


def test_pages_are_read_from_either_end(mongo: Database[dict[str, Any]]) -> None:
    events = mongo[Collection.EVENTS]
    events.insert_many([{"_id": n} for n in range(10)])
    events.delete_many({"_id": {"$in": [0, 4]}})  # places are not numbers of order

    def page(order: int, skip: int, limit: int) -> list[int]:
        return [found["_id"] for found in events.find({}).sort("$natural", order).skip(skip).limit(limit)]

    assert page(-1, 0, 3) == [9, 8, 7]
    assert page(-1, 3, 4) == [6, 5, 3, 2]
    assert page(-1, 7, 4) == [1]
    assert page(-1, 8, 4) == []
    assert [found["_id"] for found in events.find({}).skip(2).limit(3)] == [3, 5, 6]
    assert list(events.find({}).skip(8)) == []
    assert [found["_id"] for found in events.find({"_id": {"$gt": 5}}).skip(2)] == [8, 9]


def test_only_checkpoints_that_nobody_needs_go(mongo: Database[dict[str, Any]], tmp_path: Path) -> None:
    for name, age in (("serving", 30), ("candidate", 30), ("replaced", 30), ("lately", 1)):
        offset = tmp_path / name / "offsets" / "0"
        offset.parent.mkdir(parents=True)
        offset.write_text("v1")
        for path in (offset, offset.parent, tmp_path / name):
            os.utime(path, (time.time() - age * 86_400,) * 2)
    deployment = {"generation": 2, "version": "v", "session_id": "s", "started_at": dt.datetime.now(dt.UTC)}
    state = {name: deployment | {"checkpoint": name} for name in ("serving", "candidate")}
    mongo[Collection.STATE].insert_one({"_id": "flight_delay_predictor", "generation": 2, "retiring": [], **state})
    assert maintenance.prune_checkpoints(mongo, tmp_path, 7, dry_run=True) == ["replaced"]
    assert (tmp_path / "replaced").exists()
    assert maintenance.prune_checkpoints(mongo, tmp_path, 7) == ["replaced"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["candidate", "lately", "serving"]
    assert maintenance.prune_checkpoints(mongo, tmp_path / "missing", 7) == []


@pytest.mark.slow
def test_answers_are_given_while_old_ones_go(stack: Stack, mongo: Database[dict[str, Any]]) -> None:
    for _ in range(6):
        mongo[Collection.RESPONSES].insert_many(documents(500, 100))
    ended = threading.Event()

    def expire() -> None:
        with database(stack.settings) as db:
            assert maintenance.expire(db, Collection.RESPONSES, 90) == 3_000
        ended.set()

    thread = threading.Thread(target=expire)
    thread.start()
    answered = 0
    while not ended.is_set() and thread.is_alive():
        [new] = documents(1, 0)
        mongo[Collection.RESPONSES].insert_one(new)
        found = find_answer(mongo, new["_id"])
        assert found is not None
        answered += not ended.is_set()
    thread.join()
    assert ended.is_set()
    assert answered >= 10, "between any two batches there is room for others"


@pytest.mark.slow
def test_the_embedded_servers_file_stays_bounded(stack: Stack, mongo: Database[dict[str, Any]]) -> None:
    """What comes and goes leaves no room taken, over restarts too: 3 times 15,000 documents of 0.5 kB."""
    file = stack.settings.home / "mongo" / "embedded.mv.db"
    sizes = []
    for cycle in range(3):
        for _ in range(30):
            mongo[Collection.RESPONSES].insert_many(documents(500, 100))
        assert maintenance.expire(mongo, Collection.RESPONSES, 90) >= 15_000
        last = documents(1, 100 + cycle)
        mongo[Collection.RESPONSES].insert_many(last)
        stack.supervisor.stop_service("mongo")
        sizes.append(file.stat().st_size)
        stack.await_ready("mongo")
        assert find_answer(mongo, last[0]["_id"]) is not None
    assert max(sizes) < 30e6, sizes  # 20 times as much, when each insert leaves its pages behind
