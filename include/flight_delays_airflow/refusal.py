"""Refuses a run that would only wait, or do something other than what was asked, before its first task.

Airflow takes any key in a run's conf and ignores it, passes NaN on as null, and lets a run whose logical date is in the
future wait for it in the state "running", where it blocks its DAG (`max_active_runs`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from flight_delays.contract import DagId

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

log = logging.getLogger(__name__)


@hookimpl
def on_dag_run_running(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001 - Airflow passes both
    """Called by the scheduler within its transaction, before it schedules a task of the run."""
    from airflow.utils.state import DagRunState

    if dag_run.dag_id in set(DagId) and (reason := problem(dag_run)):
        log.error("run %s of the DAG %s is refused: %s", dag_run.run_id, dag_run.dag_id, reason)
        dag_run.note = f"Refused: {reason}"
        dag_run.set_state(DagRunState.FAILED)


def problem(dag_run: DagRun) -> str | None:
    """Why the run is refused; None where it is not."""
    from airflow.sdk import timezone

    if dag_run.logical_date and dag_run.logical_date > timezone.utcnow():
        return f"its logical date {dag_run.logical_date} is in the future: trigger it without one, or then"
    conf: Mapping[str, Any] = dag_run.conf or {}
    known = list(dag_run.get_dag().params)
    if unknown := sorted(set(conf) - set(known)):
        return f"unknown in conf: {', '.join(unknown)}; accepted are: {', '.join(known) or 'no keys'}"
    for name, value in conf.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            return f"{name} in conf is {json.dumps(value)}; accepted are finite numbers"
    return None
