"""What Airflow's plugin loader imports into each task process, and what an older database refers to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from urllib.parse import urlsplit

import pytest
from airflow.dag_processing.dagbag import DagBag

from flight_delays.contract import DagId
from flight_delays.settings import PROJECT, Settings, get_settings
from flight_delays_airflow.trigger import PredictorWatch
from webapp import create_app

HEAVY = {"pyspark", "pandas", "pyarrow", "pymongo", "confluent_kafka", "kafka", "fastapi", "flight_delays.predictor"}
_LOAD = """
import json, sys
import airflow.sdk.execution_time.task_runner
before = set(sys.modules)
from airflow.sdk.plugins_manager import _get_plugins, integrate_macros_plugins
integrate_macros_plugins()
plugins, errors = _get_plugins()
names = [plugin.name for plugin in plugins]
print(json.dumps({"plugins": names, "errors": errors, "modules": sorted(set(sys.modules) - before)}))
"""


def test_a_task_process_loads_the_plugin_and_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD], capture_output=True, text=True, check=True, env={**os.environ}, cwd=PROJECT
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == {}
    assert "flight_delays" in found["plugins"]
    heavy = [each for each in found["modules"] if any(each == name or each.startswith(f"{name}.") for name in HEAVY)]
    assert heavy == []


@pytest.mark.parametrize(
    "path", ["flight_delays_airflow.watch.PredictorWatch", "flight_delays_airflow.plugin.SparkUiLink"]
)
def test_what_airflows_database_of_release_0_1_0_names_can_be_imported(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert callable(getattr(import_module(module), name))


def test_a_replay_links_to_its_scoreboard() -> None:
    [task] = DagBag(PROJECT / "dags" / f"{DagId.REPLAY}.py").dags[DagId.REPLAY].tasks
    [link] = task.operator_extra_links
    assert link.name == "Scoreboard"
    address = link.get_link(task, ti_key=None)
    assert address.startswith(get_settings().web_url)
    assert create_app(Settings()).test_client().get(urlsplit(address).path).status_code == 200


def test_the_triggerer_of_an_upgraded_database_runs_the_watch_of_release_0_1_0(airflow_database: None) -> None:
    """Until the DAGs are parsed again, the database has the row that the old release wrote."""
    from airflow.jobs.triggerer_job_runner import TriggerRunner
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session

    with create_session() as session:
        old = Trigger(classpath="flight_delays_airflow.watch.PredictorWatch", kwargs={"interval": 10})
        session.add(old)
        session.flush()
        watch = TriggerRunner().get_trigger_by_classpath(old.classpath)(**old.kwargs)
        assert isinstance(watch, PredictorWatch)
        assert watch.serialize() == ("flight_delays_airflow.trigger.PredictorWatch", {"interval": 10})
        session.delete(old)
