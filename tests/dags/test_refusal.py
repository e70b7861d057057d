"""Runs that Airflow's scheduler gets to see, triggered as the command line triggers them: which of them it starts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.api.common.trigger_dag import trigger_dag
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import delete, select

from flight_delays.contract import DagId

pytestmark = pytest.mark.usefixtures("airflow_database")


@pytest.fixture(autouse=True)
def no_runs() -> Iterator[None]:
    yield
    with create_session() as session:
        session.execute(delete(DagRun))


def started(dag_id: str, run_id: str = "test", **run: Any) -> tuple[str, str]:
    """State and note of the run, once the scheduler has started what is queued."""
    now = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)  # SQLite's own clock has whole seconds
    trigger_dag(dag_id, triggered_by=DagRunTriggeredByType.CLI, run_id=run_id, run_after=now, **run)
    with create_session() as session:
        SchedulerJobRunner(job=Job())._start_queued_dagruns(session)
    with create_session() as session:
        found = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)).one()
        return str(found.state), found.note or ""


@pytest.mark.parametrize("dag_id", list(DagId))
def test_an_unknown_key_is_refused_by_every_dag(dag_id: DagId) -> None:
    state, note = started(dag_id, conf={"acton": "stop"})
    assert (state, note.partition(";")[0]) == ("failed", "Refused: unknown in conf: acton")


def test_the_refusal_names_what_is_accepted() -> None:
    assert started(DagId.PREDICTOR, conf={"acton": "stop"})[1].endswith("accepted are: action, version")


@pytest.mark.parametrize(
    ("dag_id", "conf", "name"),
    [
        (DagId.DRIFT, {"days": float("nan")}, "days in conf is NaN"),
        (DagId.DRIFT, {"days": float("inf")}, "days in conf is Infinity"),
        (DagId.DEAD_LETTERS, {"changes": {"DepDelay": float("-inf")}}, "changes in conf"),
    ],
    ids=str,
)
def test_a_number_that_is_none_is_refused(dag_id: DagId, conf: dict[str, Any], name: str) -> None:
    state, note = started(dag_id, conf=conf)
    assert (state, name in note) == ("failed", True)


def test_a_logical_date_in_the_future_is_refused_and_blocks_nothing() -> None:
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    state, note = started(DagId.PREDICTOR, logical_date=tomorrow)
    assert (state, "in the future" in note) == ("failed", True)
    assert started(DagId.PREDICTOR, "next") == ("running", "")


@pytest.mark.parametrize(
    "run",
    [{}, {"conf": {"days": 3.5}}, {"logical_date": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}],
    ids=["plain", "conf", "date"],
)
def test_any_other_run_starts(run: dict[str, Any]) -> None:
    assert started(DagId.DRIFT, **run) == ("running", "")
