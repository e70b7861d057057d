"""What every DAG of the project has to keep to."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers_manager import ProvidersManager
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError

from flight_delays.contract import DagId
from flight_delays.settings import PROJECT, Settings
from flight_delays_airflow.names import ALARM_ALIAS, ASSETS, AssetName, Tag, asset
from stack import state

DAGS = PROJECT / "dags"


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(dag_folder=str(DAGS))


def test_every_file_holds_the_dag_that_it_is_named_after(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == set(DagId)
    assert {path.stem for path in DAGS.glob("*.py")} == set(bag.dags)


@pytest.mark.parametrize("dag_id", list(DagId))
def test_a_dag_explains_itself_and_cannot_hang(bag: DagBag, dag_id: DagId) -> None:
    dag: DAG = bag.dags[dag_id]
    assert dag.description
    assert re.search(r"[*]{2}Purpose[.](.|\n){200,}[*]{2}On (repeated )?failure[.]", dag.doc_md or "")
    assert dag.tags
    assert dag.tags <= set(Tag)
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert dag.dagrun_timeout is not None
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.description, f"the form explains {name}"
        assert "type" in param.schema, f"the form checks {name}"
        assert param.schema.get("title"), f"the form names {name}"
    for task in dag.tasks:
        assert task.owner == "flight-delays", task.task_id
        assert not task.retries or task.retry_exponential_backoff > 1, task.task_id
        if type(task).__name__ != "EmptyOperator":
            assert task.execution_timeout is not None, task.task_id


IMPORTS = (DagId.RECORDS, DagId.NEWEST_MONTH, DagId.DISTANCES, DagId.CONDITIONS)


@pytest.mark.parametrize("dag_id", IMPORTS)
def test_an_import_names_what_it_reads_and_writes_and_is_tried_again(bag: DagBag, dag_id: DagId) -> None:
    dag: DAG = bag.dags[dag_id]
    assert "**Inputs.**" in (dag.doc_md or "")
    assert "**Outputs.**" in (dag.doc_md or "")
    assert [task.task_id for task in dag.tasks if task.retries == 0] == []


WRONG: list[tuple[DagId, str, Any]] = [
    (DagId.RECORDS, "source", "kaggle"),
    (DagId.RECORDS, "months", "2013"),
    (DagId.RECORDS, "max_bad_share", 2),
    (DagId.RECORDS, "sha256", "abc"),
    (DagId.RECORDS, "accept_bad_months", True),
    (DagId.RECORDS, "announce_unchanged", "yes"),
    *((DagId.TRAINING, "trees", wrong) for wrong in (0, 501)),
    *((DagId.TRAINING, "depth", wrong) for wrong in (21, "5")),
    (DagId.TRAINING, "holdout_months", 0),
    (DagId.TRAINING, "seed", -1),
    (DagId.TRAINING, "force", "yes"),
    *((DagId.ROLLBACK, "version", wrong) for wrong in ("", "latest", "../models", 3)),
]


@pytest.mark.parametrize(("dag_id", "name", "wrong"), WRONG)
def test_a_form_refuses_what_makes_no_sense(bag: DagBag, dag_id: DagId, name: str, wrong: Any) -> None:
    param = bag.dags[dag_id].params.get_param(name)
    assert param.resolve() == param.value
    with pytest.raises(ParamValidationError):
        param.resolve(wrong)


def test_airflows_list_shows_the_dags_in_the_order_of_the_flow(bag: DagBag) -> None:
    assert sorted(bag.dags, key=lambda dag_id: bag.dags[dag_id].dag_display_name) == list(DagId)


def test_maintenance_first_asks_whether_to_remove_anything(bag: DagBag) -> None:
    assert next(iter(bag.dags[DagId.MAINTENANCE].params)) == "dry_run"


HEAVY = """
import json, os, runpy, sys
import airflow.sdk
for path in sys.argv[1:]:
    if (child := os.fork()) == 0:
        runpy.run_path(path)
        heavy = [m for m in ("pandas", "pyarrow", "pyspark", "pymongo", "confluent_kafka.admin") if m in sys.modules]
        print("imports", json.dumps([path, heavy]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, path
"""
"""What each file imports, in a process of its own; only `airflow.sdk`, which takes 2 s, is there for all."""


@pytest.fixture(scope="module")
def heavy_imports() -> dict[str, list[str]]:
    command = [sys.executable, "-c", HEAVY, *map(str, DAGS.glob("*.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    lines = [line.removeprefix("imports ") for line in done.stdout.splitlines() if line.startswith("imports ")]
    return dict(map(json.loads, lines))


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.stem)
def test_a_dag_file_is_short_and_imports_nothing_heavy(path: Path, heavy_imports: dict[str, list[str]]) -> None:
    assert len(path.read_text().splitlines()) <= 60
    # The Kafka provider's operators import their client; nothing else may be loaded to parse a file.
    assert heavy_imports[str(path)] in ([], ["confluent_kafka.admin"])


def test_assets_chain_the_dags(bag: DagBag) -> None:
    def scheduled_on(dag_id: DagId) -> set[str]:
        return {found.name for found in bag.dags[dag_id].timetable.asset_condition.objects}

    def outlets(dag_id: DagId) -> set[str]:
        return {outlet.name for task in bag.dags[dag_id].tasks for outlet in task.outlets}

    assert outlets(DagId.RECORDS) == {AssetName.RECORDS}
    assert scheduled_on(DagId.DISTANCES) == {AssetName.RECORDS}
    assert outlets(DagId.DISTANCES) == {AssetName.DISTANCES}
    assert scheduled_on(DagId.CONDITIONS) == {AssetName.RECORDS}
    assert outlets(DagId.CONDITIONS) == {AssetName.CONDITIONS}
    assert scheduled_on(DagId.TRAINING) == {AssetName.CONDITIONS}, "the weather is there before it is learned from"
    assert outlets(DagId.TRAINING) == {AssetName.MODEL}
    assert outlets(DagId.ROLLBACK) == {AssetName.MODEL}
    assert scheduled_on(DagId.PREDICTOR) == {AssetName.MODEL, AssetName.DISTANCES, AssetName.ALARM}
    assert outlets(DagId.PREDICTOR) == {AssetName.PREDICTOR}


def test_assets_have_the_uris_that_their_providers_register() -> None:
    uris = [asset(name).uri for name in AssetName]
    assert len(set(uris)) == len(uris)
    assert uris == [ASSETS[name][1] for name in AssetName], "Airflow changes nothing about them"
    assert {uri.partition(":")[0] for uri in uris} <= set(ProvidersManager().asset_uri_handlers)
    assert {asset(name).group for name in AssetName} == {"data", "model", "predictor"}


@pytest.mark.usefixtures("airflow_database")
def test_a_database_of_release_0_1_0_goes_on_with_its_assets(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "airflow").mkdir()
    ours = sqlite3.connect(Path(os.environ["AIRFLOW_HOME"]) / "airflow.db")
    with closing(ours), closing(sqlite3.connect(tmp_path / "airflow" / "airflow.db")) as database:
        ours.backup(database)
        queries = [f"SELECT name, uri FROM {table} ORDER BY name" for table in ("asset", "asset_active")]  # noqa: S608
        before = [database.execute(query).fetchall() for query in queries]
        assert before == [sorted((name, ASSETS[name][1]) for name in AssetName)] * 2
        with database:
            database.execute("UPDATE asset SET uri = 'x-flight-delays://' || name")
            database.execute("UPDATE asset_active SET uri = 'x-flight-delays://' || name")
        assert state.migrate(Settings(home=tmp_path)) == "format 1 brought to 2"
        assert [database.execute(query).fetchall() for query in queries] == before


def test_health_check_runs_every_five_minutes_without_the_triggerer(bag: DagBag) -> None:
    dag = bag.dags[DagId.HEALTH]
    assert dag.schedule == dt.timedelta(minutes=5)
    assert [task.task_id for task in dag.topological_sort()] == ["query_is_active", "send_canaries", "canaries_stored"]
    aliases = [outlet.name for task in dag.tasks for outlet in task.outlets]
    assert set(aliases) == {ALARM_ALIAS}, "a plain outlet would emit an event at each success"
