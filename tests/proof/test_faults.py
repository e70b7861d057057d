"""Short proof, on real services with flights flowing: whatever dies, stops or fills up, no accepted flight is lost.

`python -m tests.proof` is the long one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conftest import NO_MOUNT, Stack
from tests.integration.line import reconcile
from tests.proof import faults
from tests.proof.conftest import ENGINES, start
from tests.proof.faults import Clock, Operator
from tests.proof.witness import Verdict, Witness

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture
def witness(engines: Stack) -> Iterator[Witness]:
    """Ten flights a second, and an operator who repairs."""
    with Operator(engines.settings, lambda: reconcile(engines.settings)):
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
    assert verdict.accepted > 5
    assert verdict.reread >= verdict.accepted
    return verdict


@pytest.mark.parametrize(
    "killed",
    [
        [("web",), ("kafka",), ("sink", "mongo")],
        pytest.param([("sink",), ("mongo",), ("spark-connect",), ("mongo", "kafka")], marks=pytest.mark.slow),
    ],
    ids=["some", "others"],
)
def test_services_are_killed_in_turn(engines: Stack, witness: Witness, killed: list[tuple[str, ...]]) -> None:
    for victims in killed:
        before = time.monotonic()
        faults.kill(engines, *victims)
        faults.recovered(witness, before)
    settled(witness, engines)


@pytest.mark.slow
def test_each_service_falls_silent_for_a_while(engines: Stack, witness: Witness) -> None:
    for victim in ENGINES:
        before = time.monotonic()
        faults.freeze(engines, victim, 5)
        faults.recovered(witness, before)
    settled(witness, engines)


@pytest.mark.slow
@pytest.mark.parametrize("service", ["kafka", "mongo"])
def test_a_disk_is_full(engines: Stack, witness: Witness, service: str) -> None:
    if not faults.can_mount():
        pytest.skip(NO_MOUNT)
    before = time.monotonic()
    faults.fill_disk_of(engines, service, 8)
    faults.recovered(witness, max(before, time.monotonic()))
    settled(witness, engines)


@pytest.mark.slow
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


@pytest.mark.slow
def test_everything_is_stopped_in_the_middle(engines: Stack, witness: Witness, clock: Clock) -> None:
    engines.supervisor.stop()
    assert faults.orphans(engines.settings.home, 0) == []
    start(engines, clock)
    faults.recovered(witness, time.monotonic())
    settled(witness, engines)
