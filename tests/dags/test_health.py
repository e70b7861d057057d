"""The health check's runs: what they emit, and how long they are kept."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetDagRunQueue, AssetEvent
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.sdk import DAG
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete, func, select, update

from flight_delays.contract import DagId
from flight_delays.predictor import canary, engine
from flight_delays.predictor.state import Deployment, State
from flight_delays.settings import PROJECT
from flight_delays_airflow import flight_delay_predictor_health as tasks

pytestmark = pytest.mark.usefixtures("airflow_database")


@pytest.fixture
def dag() -> DAG:
    return DagBag(PROJECT / "dags" / f"{DagId.HEALTH}.py").dags[DagId.HEALTH]


@pytest.fixture(autouse=True)
def no_runs() -> None:
    """None of the tests before, nor what they emitted."""
    with create_session() as session:
        for table in (AssetDagRunQueue, AssetEvent, DagRun):
            session.execute(delete(table))


def emitted() -> tuple[list[dict[str, Any]], list[str]]:
    """What the asset events say, and the DAGs that Airflow will run for them."""
    with create_session() as session:
        events = session.scalars(select(AssetEvent.extra)).all()
        return list(events), list(session.scalars(select(AssetDagRunQueue.target_dag_id)))


def test_ten_healthy_runs_trigger_nothing_and_an_unhealthy_one_a_repair(
    dag: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow runs the DAG and registers its events; only what answers it is made up. Kafka is left out."""
    reasons: list[str | None] = [None] * 10 + ["the query is gone"]
    names = dict.fromkeys(("version", "session_id", "checkpoint"), "1")
    serving = Deployment(generation=1, started_at=dt.datetime.now(dt.UTC), **names)
    monkeypatch.setattr(tasks, "database", nullcontext)
    monkeypatch.setattr(tasks, "read_state", lambda _: State(serving=serving))
    monkeypatch.setattr(tasks, "KafkaAdminClientHook", lambda _: type("Hook", (), {"get_conn": None}))
    monkeypatch.setattr(tasks, "partitions_of", lambda *_: [0, 1])
    monkeypatch.setattr(engine, "unhealthy_reason", lambda *_: reasons.pop(0))
    monkeypatch.setattr(canary, "await_canaries", lambda *_: 0.1)
    for _ in range(10):
        run = dag.test(mark_success_pattern="send_canaries")
        assert run.state == "success"
        assert {task.state for task in run.get_task_instances()} == {"success"}
    assert emitted() == ([], [])

    assert dag.test(mark_success_pattern="send_canaries").state == "success"
    assert emitted() == ([{"part": "query", "reason": "the query is gone"}], [DagId.PREDICTOR])


def test_successful_runs_are_removed_sooner(dag: DAG) -> None:
    now = dt.datetime.now(dt.UTC)

    def run(dag_id: DagId, state: str, days: float) -> str:
        at = now - dt.timedelta(days=days)
        found = DagRun(dag_id=dag_id, run_id=f"{state}_{days}", run_after=at, logical_date=at, state=state)
        found.run_type, found.triggered_by = DagRunType.MANUAL, DagRunTriggeredByType.TIMETABLE
        with create_session() as session:
            session.add(found)
        return f"{dag_id}/{state}_{days}"

    def clean(days: float, *options: str) -> set[str]:
        before = (now - dt.timedelta(days=days)).isoformat(sep=" ")
        command = [sys.executable, "-m", "flight_delays_airflow.health_runs", before, *options]
        subprocess.run(command, env=os.environ, cwd=Path.home(), check=True)
        with create_session() as session:
            return {f"{dag_id}/{run_id}" for dag_id, run_id in session.execute(select(DagRun.dag_id, DagRun.run_id))}

    ran = dag.test(mark_success_pattern=".*")
    assert len(ran.get_task_instances()) == 3
    with create_session() as session:
        session.execute(update(DagRun).values(run_after=now - dt.timedelta(days=4)))
    old = {f"{DagId.HEALTH}/{ran.run_id}", run(DagId.HEALTH, "success", 90)}
    kept = {run(DagId.HEALTH, "failed", 4), run(DagId.MAINTENANCE, "success", 4), run(DagId.HEALTH, "success", 2.9)}
    assert clean(3, "--dry-run") == old | kept
    assert clean(3) == kept
    assert clean(0) == kept, "the last run stays"
    with create_session() as session:
        assert session.scalar(select(func.count()).select_from(TaskInstance)) == 0, "its tasks went with it"
