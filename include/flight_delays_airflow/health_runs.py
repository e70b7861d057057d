"""Removes old successful runs of the health check, 288 a day, from Airflow's database.

A program for a BashOperator: no code of a task reaches that database, and `airflow db clean` knows no states of runs.
"""

from __future__ import annotations

import argparse
import datetime as dt

from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import delete, func, select

from flight_delays.contract import DagId

BATCH = 500


def main() -> None:
    """Removes the runs before a time, with their tasks; the last run stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=dt.datetime.fromisoformat)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    health = DagRun.dag_id == DagId.HEALTH.value
    last = select(func.max(DagRun.id)).where(health).scalar_subquery()
    old = select(DagRun.id).where(
        health, DagRun.state == DagRunState.SUCCESS, DagRun.run_after < arguments.before, DagRun.id != last
    )
    with create_session() as session:
        found = session.scalars(old).all()
        for start in range(0, 0 if arguments.dry_run else len(found), BATCH):
            session.execute(delete(DagRun).where(DagRun.id.in_(found[start : start + BATCH])))
            session.commit()
    print(f"{len(found)} health runs {'would be' if arguments.dry_run else 'were'} removed")  # noqa: T201


if __name__ == "__main__":
    main()
