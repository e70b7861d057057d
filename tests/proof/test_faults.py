"""Short proof, on real services with flights flowing: whatever dies, stops or fills up, no accepted flight is lost.

`python -m tests.proof` is the long one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from flight_delays import distances, predictor, store
from flight_delays.contract import Collection
from flight_delays.topics import ensure_topics
from stack import artifacts
from stack.secrets import load_secrets
from stack.services import services
from stack.supervisor import Supervisor
from tests.conftest import NO_MOUNT, Stack, settings_in
from tests.proof import faults
from tests.proof.faults import Clock, Operator
from tests.proof.witness import Verdict, Witness

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ENGINES = ("mongo", "kafka", "spark-connect", "sink", "web")


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


def start(stack: Stack, clock: Clock) -> None:
    """The engines, with a clock that can jump."""
    wanted = services(stack.settings, stack.secrets)
    with clock.worn():
        stack.supervisor.start([service for service in wanted if service.name in ENGINES])


@pytest.fixture(scope="module")
def engines(line: Stack, clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The line without Airflow, with `line`'s model and records, on small disks and with a clock that can jump."""
    home = tmp_path_factory.mktemp("engines")
    settings = settings_in(home, 13_000)
    artifacts.fetch(settings)
    shutil.copytree(line.settings.models, settings.models)
    shutil.copytree(line.settings.records, settings.records)
    secrets = load_secrets(settings)
    supervisor = Supervisor(settings, secrets)
    stack = Stack(settings, supervisor, secrets)
    with faults.small_disks({home / "kafka": 400, home / "mongo": 96}):
        start(stack, clock)
        try:
            for name in ENGINES:
                stack.await_ready(name)
            database = store.connect(settings)
            ensure_topics(AdminClient({"bootstrap.servers": settings.kafka_bootstrap}), settings)
            store.ensure_indexes(database)
            distances.import_distances(database[Collection.DISTANCES], distances.read_pairs(distances.PAIRS_FILE))
            predictor.reconcile(settings)
            yield stack
        finally:
            supervisor.stop()
    assert faults.orphans(home, 0) == []


@pytest.fixture
def witness(engines: Stack) -> Iterator[Witness]:
    """Ten flights a second, and an operator who repairs."""
    with Operator(engines.settings, lambda: predictor.reconcile(engines.settings)):
        found = Witness(engines.settings, engines.web_url, rate=10)
        found.start()
        try:
            faults.recovered(found, 0)
            yield found
        finally:
            found.finish()


def settled(witness: Witness, stack: Stack) -> Verdict:
    """The verdict once all is answered; fails with what is wrong."""
    witness.finish()
    for name in ENGINES:
        stack.await_ready(name)
    verdict = witness.verdict()
    assert verdict.clean, verdict
    assert verdict.accepted > 10
    assert verdict.reread >= verdict.accepted
    return verdict


def test_each_service_is_killed_in_turn_and_two_at_once(engines: Stack, witness: Witness) -> None:
    for victims in [("web",), ("sink",), ("mongo",), ("kafka",), ("spark-connect",), ("mongo", "kafka")]:
        before = time.monotonic()
        faults.kill(engines, *victims)
        faults.recovered(witness, before)
    settled(witness, engines)


def test_each_service_falls_silent_for_a_while(engines: Stack, witness: Witness) -> None:
    for victim in ENGINES:
        before = time.monotonic()
        faults.freeze(engines, victim, 5)
        faults.recovered(witness, before)
    settled(witness, engines)


@pytest.mark.parametrize("service", ["kafka", "mongo"])
def test_a_disk_is_full(engines: Stack, witness: Witness, service: str) -> None:
    if not faults.can_mount():
        pytest.skip(NO_MOUNT)
    before = time.monotonic()
    faults.fill_disk_of(engines, service, 8)
    faults.recovered(witness, max(before, time.monotonic()))
    settled(witness, engines)


def test_the_clock_jumps(engines: Stack, witness: Witness, clock: Clock) -> None:
    try:
        for seconds in (3600, -3600, 0):
            before = time.monotonic()
            clock.jump(seconds)
            faults.recovered(witness, before)
            time.sleep(5)
        settled(witness, engines)
    finally:
        clock.jump(0)


def test_everything_is_stopped_in_the_middle(engines: Stack, witness: Witness, clock: Clock) -> None:
    engines.supervisor.stop()
    assert faults.orphans(engines.settings.home, 0) == []
    start(engines, clock)
    faults.recovered(witness, time.monotonic())
    settled(witness, engines)
