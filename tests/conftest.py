"""Real services for the tests, on ports and in folders of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo.database import Database

from flight_delays.contract import TOPICS
from flight_delays.errors import BrokerError
from flight_delays.infra.kafka import ends
from flight_delays.infra.mongo import connect, ensure_indexes
from flight_delays.settings import LOOPBACK, PROJECT, Settings, get_settings
from stack import artifacts
from stack.secrets import Secrets, load_secrets
from stack.services import services
from stack.steps import Step
from stack.supervisor import Supervisor
from stack.up import await_ready, up

# A person's settings of this project do not reach the tests.
for _name in [name for name in os.environ if name.startswith("FLIGHTS_") or name == "MONGO_URI"]:
    del os.environ[_name]
# Airflow reads these when it is first imported: nothing of a person's own Airflow is used or changed.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="flights-airflow-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(PROJECT / "dags")
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(PROJECT / "plugins")
os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{os.environ['AIRFLOW_HOME']}/airflow.db"


Mongo = Database[dict[str, Any]]


@dataclass(frozen=True)
class Stack:
    """Running services: their settings, and the process manager to stop and kill them with."""

    settings: Settings
    supervisor: Supervisor
    secrets: Secrets

    @property
    def web_url(self) -> str:
        return self.settings.web_url

    def kill(self, name: str) -> None:
        """Ends the service's process with SIGKILL, at once or as soon as it runs; the process manager restarts it."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            pid = self.supervisor.states()[name]["pid"]
            if pid > 0:  # 0 would be this very process group
                with suppress(ProcessLookupError):  # it ended a moment ago, and the process manager has yet to see it
                    os.kill(pid, signal.SIGKILL)
                    return
            time.sleep(0.01)
        raise AssertionError(f"{name} does not run")

    def await_ready(self, name: str) -> None:
        """Starts the service where it does not run, and waits until it answers."""
        service = next(service for service in services(self.settings, self.secrets) if service.name == name)
        await_ready(self.settings, self.supervisor, service, Step(name))


GROUPS = {
    "line": (
        "tests/integration/test_line.py",
        "tests/integration/test_no_drift.py",
        "tests/integration/test_poison.py",
        "tests/integration/test_predictor_page.py",
        "tests/integration/test_replay.py",
        "tests/integration/test_backup.py::test_a_running_stack_is_stopped_copied_and_started_again",
        "tests/integration/test_dead_letters.py::test_a_rejected_request_is_mended_replayed_and_predicted",
        "tests/e2e/test_page.py::test_prediction_of_the_whole_line",
    ),
    "engines": ("tests/proof/",),
}
"""Fixtures that take minutes to set up, the longest first, and the tests that use them: these run in one worker."""


def group_of(nodeid: str) -> str:
    """The group of tests that run in one worker: of such a fixture, else the module."""
    for fixture, places in GROUPS.items():
        if nodeid.startswith(places):
            return fixture
    return nodeid.partition("::")[0]


ODD = "mi línea (1)'s %2F ;x"
"""The name of a folder that every part has to bear."""


def pytest_configure() -> None:
    """A JVM of a test lives for a minute or two: until then its second compiler takes more time than it gives."""
    # One compiler makes the code cache 48 MB: the code that Spark generates fills it, and the sweeper takes half a
    # processor.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the groups that take longest first, and refuses a test that would set up such a fixture once more."""
    order = list(GROUPS)
    items.sort(key=lambda item: order.index(group_of(item.nodeid)) if group_of(item.nodeid) in order else len(order))
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}  # which may have a fixture's name
        for fixture in {*order} & {*getattr(item, "fixturenames", ())} - {*parameters}:
            if group_of(item.nodeid) != fixture:
                raise pytest.UsageError(f"{item.nodeid} uses {fixture}: it belongs into GROUPS in tests/conftest.py")


@pytest.hookimpl(optionalhook=True)  # nobody calls it without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A group of tests goes to the worker that is free next, in the order in which they were collected.

    (xdist's own `loadgroup` marks groups in a private field of pytest's that pytest no longer has.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


def settings_in(home: Path, offset: int) -> Settings:
    """Settings of an installation of its own, on ports that are free, and that no other worker of the tests tries."""
    offset += 50 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = [name for name in Settings.model_fields if name.startswith("port_") and name != "port_offset"]
    while True:
        settings = Settings(home=home, port_offset=offset)
        if all(_free(getattr(settings, name)) for name in ports):
            return settings
        offset += 100


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))  # fails, too, where it is the other end of somebody's connection
        except OSError:
            return False
        return True


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of an installation, by which this process finds its settings."""
    monkeypatch.setenv("FLIGHTS_HOME", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, with the contract's topics, and MongoDB; nothing else."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    from flight_delays.infra.topics import ensure_topics

    settings = settings_in(tmp_path_factory.mktemp(ODD), 1_100)
    secrets = load_secrets(settings)
    artifacts.fetch(settings)
    supervisor = Supervisor(settings)
    found = Stack(settings, supervisor, secrets)
    supervisor.start([service for service in services(settings, secrets) if service.name in ("mongo", "kafka")])
    try:
        found.await_ready("mongo")
        found.await_ready("kafka")
        admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
        # The first message that a broker ever takes may need more than the 3 s that the web app waits.
        admin.create_topics([NewTopic("warm-up", 1)])["warm-up"].result()
        producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "enable.idempotence": True})
        producer.produce("warm-up", b"")
        assert producer.flush(60) == 0
        admin.delete_topics(["warm-up"])["warm-up"].result()
        ensure_topics(admin, settings)
        deadline = time.monotonic() + 30
        while True:
            try:
                [ends(settings, topic) for topic in TOPICS]
                break
            except BrokerError:  # a new topic has no leader for a moment
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield found
    finally:
        supervisor.stop()


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_web_app(environment: dict[str, str], log: Path) -> Iterator[str]:
    """The web app as it runs in production, on a free port unless `environment` names one; gives its address."""
    environment = {"FLIGHTS_PORT_WEB": str(free_port()), **environment}
    command = [sys.executable, "-m", "gunicorn", "--config", "webapp/gunicorn.conf.py", "webapp:create_app()"]
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith("FLIGHTS_") and name != "MONGO_URI"
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**ours, **environment},
            stdout=output,
            stderr=output,
        )
        try:
            host = environment.get("FLIGHTS_WEB_BIND", LOOPBACK).replace("::", LOOPBACK)
            url = f"http://{host}:{environment['FLIGHTS_PORT_WEB']}"
            deadline = time.monotonic() + 30
            while True:
                try:
                    httpx.get(url + "/nothing")
                    break
                except httpx.TransportError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="session")
def web_app(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts the web app on the stack's Kafka and MongoDB, or on others; used as a context manager."""
    folder = tmp_path_factory.mktemp("web")
    found = stack.settings

    def start(*, kafka: str = found.kafka_bootstrap, mongo: str = found.mongo_uri, **more: str) -> Any:
        environment = {"FLIGHTS_HOME": str(found.home), "FLIGHTS_KAFKA_BOOTSTRAP": kafka, "MONGO_URI": mongo, **more}
        return running_web_app(environment, folder / f"{time.monotonic_ns()}.log")

    return start


@pytest.fixture
def mongo(stack: Stack) -> Iterator[Mongo]:
    """The project's database, emptied; on a busy machine it may take longer than the web app would wait."""
    database = connect(stack.settings, connectTimeoutMS=20_000, serverSelectionTimeoutMS=20_000)
    for name in database.list_collection_names():
        database[name].delete_many({})
    ensure_indexes(database)
    yield database
    database.client.close()


NO_MOUNT = "small file systems cannot be mounted here"
NO_ENGINE = "this machine forbids what a Docker engine needs"
"""The reasons for which CI may leave out tests, those of full disks and of containers: its own container decides."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing may be skipped: a run that left out the real services or the browser proves nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    allowed = (NO_MOUNT, NO_ENGINE)
    skipped = [report for report in skipped if not any(reason in str(report.longrepr) for reason in allowed)]
    if os.environ.get("CI") == "true" and skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped, which CI does not allow", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    shutil.rmtree(os.environ["AIRFLOW_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole pipeline as `make up` leaves it: Airflow has downloaded three months, trained on one, and deployed."""
    settings = settings_in(tmp_path_factory.mktemp(ODD), 2_100)
    secrets = load_secrets(settings)
    supervisor = Supervisor(settings)
    try:
        up(settings, months="2013-10..2013-12")
        yield Stack(settings, supervisor, secrets)
    finally:
        if supervisor.running():
            supervisor.stop()
