"""Airflow's own database, with the project's DAGs in it."""

from __future__ import annotations

import pytest

from flight_delays.settings import PROJECT


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """An empty database in which Airflow knows the DAGs, none of them paused."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.dag import DagModel
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session
    from sqlalchemy import update

    initdb()
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(DagBag(str(PROJECT / "dags"), bundle_name="dags-folder"), "dags-folder", None)
    with create_session() as session:
        session.execute(update(DagModel).values(is_paused=False))
