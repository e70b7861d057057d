"""What Airflow's plugin loader imports into each task process, and what an older database refers to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module

import pytest

from flight_delays.settings import PROJECT

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
