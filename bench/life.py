"""The predictor's life under traffic: swaps of the model by Airflow, and kill -9 of each component."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from typing import Final

from bench.installation import Installation, until
from bench.results import RATE, Plan, Results
from bench.traffic import Exchange, records_flights, send
from flight_delays.contract import DagId
from flight_delays.model import registry
from flight_delays.predictor.events import Kind, last_events
from flight_delays.predictor.status import read_status
from stack.airflow_api import ACTIVE

COMPONENTS: Final = ("spark-connect", "kafka", "mongo", "sink")


@contextmanager
def traffic(inst: Installation) -> Iterator[list[Exchange]]:
    """`RATE` flights a second; the list holds those that have ended, and all of them after the block."""
    going, done = threading.Event(), list[Exchange]()
    flights = takewhile(lambda _: not going.is_set(), records_flights(inst.settings.records))
    sending = threading.Thread(
        target=lambda: asyncio.run(send(inst.url, flights, RATE, answer_seconds=240, done=done.append))
    )
    sending.start()
    try:
        until("the first answer", 60, lambda: any(one.answered for one in done))
        yield done
    finally:
        going.set()
        sending.join()


def swap(inst: Installation, plan: Plan, results: Results) -> None:
    """Deployments to and fro between two models, triggered through Airflow, at 10/s."""
    versions = _two_versions(inst)
    took = []
    with traffic(inst) as exchanges:
        begin = time.monotonic()
        for number in range(plan.swaps):
            deployed = _run(inst, {"action": "deploy", "version": versions[(number + 1) % 2]})
            took.append(deployed)
            time.sleep(5)
        end = time.monotonic()
    during = [one for one in exchanges if one.accepted and begin <= one.accepted <= end]
    lost = sum(one.answered is None for one in during)
    longest = 1000 * max(one.latency for one in during if one.answered)
    title = f"{plan.swaps} swaps of the model by Airflow at 10/s"
    results.add(f"{title}: longest wait of {len(during):,}", f"{longest:,.0f} ms", "<= 1,500 ms", longest <= 1500)
    results.add(f"{title}: accepted flights without an answer", str(lost), "0", lost == 0)
    results.add(f"{title}: seconds a deployment took", f"{min(took):.0f} to {max(took):.0f}")


def repair(inst: Installation, plan: Plan, results: Results) -> None:
    """kill -9 of each component at 10/s: from there to the answer of a flight that left after it; nobody helps."""
    for component in COMPONENTS:
        seconds, lost = [], 0
        for _ in range(plan.runs):
            with traffic(inst) as exchanges:
                killed = time.monotonic()
                inst.kill(component)
                answered = partial(_answered_since, exchanges, killed)
                until("an answer to a flight that left after the kill", 240, answered)
                seconds.append(answered() - killed)
                until("a healthy predictor", 240, lambda: read_status(inst.settings).healthy, every=1)
                time.sleep(5)
            lost += sum(one.accepted is not None and one.answered is None for one in exchanges)
        longest = max(seconds)
        what = f"kill -9 of {component} at 10/s: until the next answer, longest of {plan.runs}"
        results.add(what, f"{longest:.1f} s, {lost} lost", "<= 60 s, 0 lost", longest <= 60 and lost == 0)


def _answered_since(exchanges: list[Exchange], moment: float) -> float:
    """When the first flight that left after the moment was answered; 0 where none was yet."""
    return min((one.answered for one in list(exchanges) if one.answered and (one.sent or 0) > moment), default=0)


def _two_versions(inst: Installation) -> tuple[str, str]:
    """The champion and another version; trained through Airflow where there is none."""
    champion = str(registry.read_pointer(inst.settings.models).champion)
    if not (others := [version for version in registry.versions(inst.settings.models) if version != champion]):
        inst.airflow().trigger(DagId.TRAINING, {"force": True, "trees": 10, "depth": 8, "seed": 7})
        until("a second model", 900, lambda: registry.read_pointer(inst.settings.models).champion != champion, every=1)
        inst.await_serving_champion(300)
        return str(registry.read_pointer(inst.settings.models).champion), champion
    return champion, others[0]


def _run(inst: Installation, conf: dict[str, str]) -> float:
    """A run of the predictor's DAG; the seconds of its deployment. Raises RuntimeError where it failed."""
    api = inst.airflow()
    run_id = api.trigger(DagId.PREDICTOR, conf)

    def ended() -> str:
        state = str(api.run(DagId.PREDICTOR, run_id)["state"])
        return "" if state in ACTIVE else state

    state = until("the end of the deployment", 240, ended, every=1)
    event = next(each for each in last_events(inst.db, 20) if each.DagRun.endswith(f"/{run_id}"))
    if state != "success" or event.Kind is not Kind.REPLACED:
        raise RuntimeError(f"the deployment ended as {state}: {event}")
    return event.Seconds
