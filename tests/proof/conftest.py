"""The line without Airflow, on small disks and with a clock that can jump, and two models to serve."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from flight_delays.contract import Collection
from flight_delays.data import distances, records
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.infra import mongo
from flight_delays.infra.topics import ensure_topics
from flight_delays.model import registry
from flight_delays.settings import PROJECT, Settings
from stack import artifacts
from stack.secrets import load_secrets
from stack.services import BIN, inherited_environment, services, spark_environment
from stack.supervisor import Supervisor
from tests.conftest import Stack, settings_in
from tests.flights import import_records
from tests.integration.line import reconcile
from tests.proof import faults
from tests.proof.faults import Clock

ENGINES = ("mongo", "kafka", "spark-connect", "sink", "web")


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


def start(stack: Stack, clock: Clock) -> None:
    """The engines, with a clock that can jump."""
    wanted = services(stack.settings, stack.secrets)
    with clock.worn():
        stack.supervisor.start([service for service in wanted if service.name in ENGINES])


def train(settings: Settings, trees: int) -> str:
    """A small model on the published records, registered; returns its version."""
    staged = registry.stage(settings.models, f"trees-{trees}")
    submit = [str(BIN / "spark-submit"), "--master", "local[2]", "--driver-memory", "1g"]
    submit += ["--conf", "spark.ui.enabled=false", str(PROJECT / "spark_jobs" / "train_model.py")]
    months = map(str, records.month_files(settings.records))
    job = [
        "--output",
        str(staged),
        "--trees",
        str(trees),
        "--depth",
        "4",
        "--holdout-months",
        "1",
        "--records",
        *months,
    ]
    environment = inherited_environment() | spark_environment() | settings.environment
    done = subprocess.run([*submit, *job], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return registry.register(settings.models, staged)


@pytest.fixture(scope="package")
def engines(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, MongoDB, Spark Connect, sink and web app; the query serves a small model."""
    home = tmp_path_factory.mktemp("engines")
    settings = settings_in(home, 3_000)
    secrets = load_secrets(settings)
    artifacts.fetch(settings)
    months = "2013-11..2013-12"
    import_records(NycFlights13(), records_dir=settings.records, downloads=settings.downloads, months=months)
    registry.promote(settings.models, train(settings, 3))
    supervisor = Supervisor(settings)
    stack = Stack(settings, supervisor, secrets)
    with faults.small_disks({home / "kafka": 400, home / "mongo": 96}):
        start(stack, clock)
        try:
            for name in ENGINES:
                stack.await_ready(name)
            database = mongo.connect(settings)
            ensure_topics(AdminClient({"bootstrap.servers": settings.kafka_bootstrap}), settings)
            mongo.ensure_indexes(database)
            distances.import_distances(database[Collection.DISTANCES], distances.read_pairs(distances.PAIRS_FILE))
            reconcile(settings)
            yield stack
        finally:
            supervisor.stop()
    assert faults.orphans(home, 0) == []


@pytest.fixture(scope="package")
def other_version(engines: Stack) -> str:
    """A second model, which predicts differently."""
    return train(engines.settings, 2)
