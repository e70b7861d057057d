"""What the tests on real services share: a Spark of the process's own, and a DAG's surroundings without Airflow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from pyspark.sql import SparkSession

from flight_delays.settings import get_settings


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    for name in ("SPARK_CONNECT_MODE_ENABLED", "SPARK_REMOTE"):  # an earlier test was a client of Spark Connect
        os.environ.pop(name, None)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.shuffle.partitions", "2").config("spark.driver.memory", "1g").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()  # a later test may want a remote session in this process


@pytest.fixture
def airflow_installation(mongo: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For a DAG's tasks called as functions: Airflow's connection leads to the tests' MongoDB, all state is here."""
    host, port = mongo.client.address or ("127.0.0.1", 27017)
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_DEFAULT", f"mongo://{host}:{port}/")
    monkeypatch.setenv("FLIGHTS_HOME", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()
