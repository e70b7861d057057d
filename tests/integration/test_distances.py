"""Distances in a real MongoDB-wire server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from flight_delays.contract import Collection, Pair
from flight_delays.data.airports import great_circle_miles, reference
from flight_delays.data.distances import PAIRS_FILE, find_distance, import_distances, read_pairs
from flight_delays.errors import DataError

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _empty(mongo: Database[dict[str, Any]]) -> None:
    mongo[Collection.DISTANCES].delete_many({})  # no drop(): the embedded server keeps the index's entries


def test_importing_twice_gives_the_same_counts(mongo: Database[dict[str, Any]]) -> None:
    collection = mongo[Collection.DISTANCES]
    pairs = read_pairs(PAIRS_FILE)
    assert import_distances(collection, pairs) == {"pairs": 4696, "inserted": 4696, "changed": 0, "total": 4696}
    before = {document["_id"]: document for document in collection.find({})}
    assert import_distances(collection, pairs) == {"pairs": 4696, "inserted": 0, "changed": 0, "total": 4696}
    assert {document["_id"]: document for document in collection.find({})} == before
    stored = [{key: value for key, value in document.items() if key != "_id"} for document in before.values()]
    assert all(pair.model_dump() in stored for pair in pairs[::500])

    changed = [Pair(Origin="ATL", Dest="SFO", Distance=2140.0), Pair(Origin="JFK", Dest="IAH", Distance=1417.0)]
    assert import_distances(collection, changed) == {"pairs": 2, "inserted": 1, "changed": 1, "total": 4697}
    assert find_distance(mongo, "ATL", "SFO") == 2140.0
    with pytest.raises(DuplicateKeyError):
        collection.insert_one(changed[0].model_dump())


def test_a_collection_with_doubles_is_named(mongo: Database[dict[str, Any]]) -> None:
    double = Pair(Origin="ATL", Dest="SFO", Distance=2139.0)
    collection = mongo[f"doubles_{uuid4().hex}"]  # without an index yet
    collection.insert_many([double.model_dump(), double.model_dump()])
    with pytest.raises(DataError, match=r"doubles_.* holds a pair of airports twice"):
        import_distances(collection, [double])


def test_a_distance_is_the_pairs_the_way_backs_or_the_great_circle(mongo: Database[dict[str, Any]]) -> None:
    import_distances(mongo[Collection.DISTANCES], [Pair(Origin="ATL", Dest="SFO", Distance=2139.0)])
    assert find_distance(mongo, "ATL", "SFO") == 2139.0
    assert find_distance(mongo, "SFO", "ATL") == 2139.0
    known = reference()
    assert find_distance(mongo, "PPG", "GUM") == round(great_circle_miles(known["PPG"], known["GUM"]))
    assert find_distance(mongo, "ATL", "QQQ") is None


def test_the_dags_task_goes_through_the_mongodb_provider(
    mongo: Database[dict[str, Any]], airflow_installation: Path
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    from flight_delays import contract
    from flight_delays.settings import PROJECT

    stored = mongo.client[contract.DATABASE][Collection.DISTANCES]
    stored.delete_many({})
    dag = DagBag(PROJECT / "dags" / "origin_dest_distances.py").dags["origin_dest_distances"]
    path = dag.task_dict["download"].python_callable({"path_or_url": None})
    (event,) = dag.task_dict["import_pairs"].python_callable(path)
    assert event.extra == {"pairs": 4696, "inserted": 4696, "changed": 0, "total": 4696}
    assert stored.count_documents({}) == 4696
