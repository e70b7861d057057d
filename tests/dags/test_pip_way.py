"""The original project's way, with pip and Airflow alone, as docs/operations.md says."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flight_delays.contract import DagId
from flight_delays.settings import PROJECT

SECTION = (PROJECT / "docs" / "operations.md").read_text().partition("## With pip and Airflow alone")[2]
DONE_BY_THE_BOOTSTRAP = ("python3 -m venv", "pip install")


@pytest.mark.timeout(300)
def test_the_commands_of_the_page_trigger_the_runs(tmp_path: Path) -> None:
    commands = re.findall(r"^\$ (.+?)(?: +#.*)?$", SECTION.partition("## ")[0], re.M)
    assert [line for line in commands if line.startswith(DONE_BY_THE_BOOTSTRAP)] == commands[:2]
    script = "\n".join(commands[2:]).replace("airflow standalone", "airflow db migrate && airflow dags reserialize")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FLIGHTS_"))}
    environment |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-ec", script]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with closing(sqlite3.connect(tmp_path / "flight-delays" / "airflow" / "airflow.db")) as database:
        runs = database.execute("SELECT dag_id, state FROM dag_run ORDER BY id").fetchall()
    assert runs == [(DagId.RECORDS, "queued"), (DagId.TRAINING, "queued")]
