"""What the log of a task ends with that really ran: the reason, in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
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
for number, (dag_id, conf) in enumerate(json.loads(sys.argv[1])):
    dag = DagBag(f"dags/{dag_id}.py").dags[dag_id]
    configure_logging(json_output=True, output=open(f"{sys.argv[2]}/{number}", "wb"), sending_to_supervisor=True)
    dag.test(run_conf=conf)
"""
"""Runs of DAGs, whose tasks log as they would into their files."""


def logs_of(runs: list[tuple[DagId, dict[str, Any]]], home: Path) -> Iterator[list[dict[str, Any]]]:
    """What the runs' tasks log; the runs have a process of their own."""
    environment = {**os.environ, "FLIGHTS_HOME": str(home)}
    subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(runs), str(home)],
        cwd=PROJECT,
        env=environment,
        check=True,
        capture_output=True,
    )
    for number in range(len(runs)):
        lines = [json.loads(line) for line in (home / str(number)).read_text().splitlines()]
        yield [line for line in lines if line["logger"] == "task" and not line["event"].startswith("::")]


@pytest.mark.usefixtures("airflow_database")
def test_an_expected_failure_and_a_skip_end_with_their_reason(tmp_path: Path) -> None:
    """Two runs: one with a wrong parameter, and one without anything to do."""
    wrong = {"url": "https://example.com/flights.jsonl"}
    (*_, failed), (*_, skipped) = logs_of([(DagId.RECORDS, wrong), (DagId.NEWEST_MONTH, {})], tmp_path)
    assert failed["level"] == "error"
    assert failed["reason"] == "url: only source archive takes it; leave it empty, or choose that source"
    assert "error_detail" not in failed, "no traceback"
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
