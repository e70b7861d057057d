"""What the log of a task ends with that really ran: the reason, in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from flight_delays.contract import DagId
from flight_delays.errors import PredictorError
from flight_delays.settings import PROJECT
from flight_delays_airflow import failure

RUN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.log import configure_logging
dag_id, conf = sys.argv[1], json.loads(sys.argv[2])
dag = DagBag(f"dags/{dag_id}.py").dags[dag_id]
configure_logging(json_output=True, output=open(sys.argv[3], "wb"), sending_to_supervisor=True)  # as a task does
dag.test(run_conf=conf)
"""


def log_of(dag_id: DagId, conf: dict[str, Any], home: Path) -> list[dict[str, Any]]:
    """What the run's tasks log as they would into their files; the run has a process of its own."""
    command = [sys.executable, "-c", RUN, dag_id, json.dumps(conf), str(home / "log")]
    environment = {**os.environ, "FLIGHTS_HOME": str(home)}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True)
    lines = [json.loads(line) for line in (home / "log").read_text().splitlines()]
    return [line for line in lines if line["logger"] == "task" and not line["event"].startswith("::")]


@pytest.mark.usefixtures("airflow_database")
def test_an_expected_failure_and_a_skip_end_with_their_reason(tmp_path: Path) -> None:
    """Two runs: one that a parameter fails, and one whose only file is not published yet."""
    *_, failed = log_of(DagId.RECORDS, {"url": "https://example.com/flights.jsonl"}, tmp_path)
    assert failed["level"] == "error"
    assert failed["reason"] == "url: only source archive takes it; leave it empty, or choose that source"
    assert "error_detail" not in failed, "no traceback"
    *_, skipped = log_of(DagId.NEWEST_MONTH, {}, tmp_path)
    assert skipped["reason"].startswith("no month of the Bureau's is published here")


@pytest.mark.parametrize("error", [PredictorError("it is silent"), AirflowFailException("it is silent")])
def test_the_projects_errors_are_expected(error: Exception) -> None:
    try:
        raise error
    except type(error):
        assert failure.one_sentence(None, "error", {"exc_info": True}) == {"reason": "it is silent"}


def test_other_errors_keep_their_traceback() -> None:
    try:
        raise KeyError("it")
    except KeyError:
        assert failure.one_sentence(None, "error", {"exc_info": True}) == {"exc_info": True}
