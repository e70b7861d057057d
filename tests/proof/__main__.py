"""The long proof, `make proof`: breaks an installation in every way while flights flow; writes docs/reliability.md.

It brings up an installation of its own (temporary folder, ports of its own), on small disks and with a clock that can
jump, and takes some 40 minutes. Nobody repairs but Airflow itself. Exit status 1 where a single accepted flight was
lost or answered differently, where two queries answer, or none.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pymongo.errors import PyMongoError

from bench.installation import own_settings
from bench.report import machine
from bench.traffic import Exchange
from flight_delays.contract import DagId
from flight_delays.infra import mongo
from flight_delays.model import registry
from flight_delays.predictor.state import State, read_state
from flight_delays.settings import PROJECT, Settings
from stack.airflow_api import ACTIVE, AirflowApi
from stack.secrets import load_secrets
from stack.supervisor import Supervisor
from stack.up import down, up
from tests.conftest import Stack
from tests.integration.line import run_dag, until
from tests.proof import faults
from tests.proof.faults import Clock, Phase
from tests.proof.witness import Verdict, Witness

KILLED = ("web", "sink", "mongo", "kafka", "spark-connect", "airflow-scheduler")
PAIRS = (
    ("mongo", "kafka"),
    ("kafka", "spark-connect"),
    ("sink", "mongo"),
    ("web", "sink"),
    ("spark-connect", "airflow-scheduler"),
)
FROZEN_SECONDS = 20
FULL_SECONDS = 20
JUMPS = (-3600, 0)
STOPPED_SECONDS = 20
AWAY_SECONDS = 300
REST_SECONDS = 5
SECOND_MODEL = {"force": True, "trees": 10, "depth": 8, "seed": 7}
REPORT = PROJECT / "docs" / "reliability.md"


def main() -> None:
    """Runs the proof and writes the report; with `--only`, the faults whose name it matches, and prints it."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rate", type=float, default=10, help="flights a second")
    parser.add_argument("--requests", type=int, default=10_000, help="send at least so many")
    parser.add_argument("--only", default="", metavar="REGEX", help="no report then, but a table of these faults")
    options = parser.parse_args()
    if missing := faults.missing_means():
        sys.exit(f"The proof needs {missing}.")
    with tempfile.TemporaryDirectory(prefix="flights-proof-") as folder:
        home = Path(folder) / "var"
        settings = own_settings(home)
        clock = Clock(Path(folder))
        secrets = load_secrets(settings)
        with faults.small_disks({home / "kafka": 800, home / "mongo": 192}):
            stack = Stack(settings, Supervisor(settings), secrets)
            try:
                with clock.worn():
                    up(settings)
                phases, witness, verdict = prove(stack, clock, options)
            finally:
                clock.jump(0)
                if stack.supervisor.running():
                    down(settings)
            left = faults.orphans(home, 0)
    text = report(phases, witness.exchanges, verdict, options.rate, left)
    if options.only:
        say(text)
    else:
        REPORT.write_text(text)
        say(f"{REPORT} written")
    if not verdict.clean or left:
        sys.exit(f"The proof failed: {verdict}, processes left behind: {left}")


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def state_of(stack: Stack) -> State:
    """The predictor's state."""
    return read_state(mongo.connect(stack.settings))


def settled(stack: Stack) -> State:
    """The state once the champion serves and no run is half done."""

    def found() -> State | None:
        with suppress(PyMongoError):
            state, champion = state_of(stack), registry.read_pointer(stack.settings.models).champion
            if not state.in_progress and state.serving and state.serving.version == champion:
                return state
        return None

    state: State = until(found, 300, "the champion to serve")
    return state


def other_version(stack: Stack) -> str:
    """A version that does not serve."""
    champion = registry.read_pointer(stack.settings.models).champion
    return next(version for version in registry.versions(stack.settings.models) if version != champion)


def deploy(stack: Stack, times: int = 1) -> str:
    """Triggers deployments of the version that does not serve; returns it."""
    api, version = AirflowApi(stack.settings, stack.secrets), other_version(stack)
    for _ in range(times):
        api.trigger(DagId.PREDICTOR, {"action": "deploy", "version": version})
    return version


def swapped(stack: Stack) -> None:
    """A deployment of the version that does not serve, to its end."""
    version = deploy(stack)
    until(lambda: registry.read_pointer(stack.settings.models).champion == version, 120, "the pointer to move")
    settled(stack)


def interrupted(stack: Stack, victim: str) -> None:
    """A deployment whose victim is killed while the new query starts."""
    before = settled(stack)
    deploy(stack)
    until(lambda: state_of(stack).generation > before.generation, 120, "a candidate")
    faults.kill(stack, victim)
    settled(stack)


def three_at_once(stack: Stack) -> None:
    """Three deployments triggered at once, to their end."""
    deploy(stack, times=3)
    api = AirflowApi(stack.settings, stack.secrets)
    until(lambda: all(run["state"] not in ACTIVE for run in api.runs(DagId.PREDICTOR, 20)), 600, "the end of all runs")
    settled(stack)


def stopped_for(stack: Stack, seconds: float) -> None:
    """A person stops the predictor, and starts it again."""
    for action in ("stop", "start"):
        states = run_dag(stack, DagId.PREDICTOR, {"action": action})
        assert states["run"] == "success", states
        time.sleep(seconds if action == "stop" else 0)
    settled(stack)


def airflow_away(stack: Stack, seconds: float) -> None:
    """All of Airflow down for so long; back, it finds the running query and starts no other."""
    before = settled(stack)
    names = [name for name in stack.supervisor.states() if name.startswith("airflow-")]
    for name in names:
        stack.supervisor.stop_service(name)
    time.sleep(seconds)
    for name in names:
        stack.await_ready(name)
    states = run_dag(stack, DagId.PREDICTOR)
    assert (states["run"], settled(stack).generation) == ("success", before.generation), states


def faults_of(stack: Stack, clock: Clock) -> list[tuple[str, Callable[[], object]]]:
    """Every fault in its order: its name, and what is done. It is over when a flight that left after it is answered."""

    def killed(*victims: str) -> tuple[str, Callable[[], object]]:
        return f"kill -9 {' and '.join(victims)}", lambda: faults.kill(stack, *victims)

    def frozen(victim: str) -> tuple[str, Callable[[], object]]:
        return f"SIGSTOP {victim}, {FROZEN_SECONDS} s", lambda: faults.freeze(stack, victim, FROZEN_SECONDS)

    def full(service: str) -> tuple[str, Callable[[], object]]:
        return f"disk full: {service}, {FULL_SECONDS} s", lambda: faults.fill_disk_of(stack, service, FULL_SECONDS)

    def jumped(seconds: int) -> tuple[str, Callable[[], object]]:
        name = f"clock of all processes off by {seconds // 3600:+} h" if seconds else "clock right again"
        return name, lambda: jump(clock, seconds)

    return [
        ("nothing, for a minute", lambda: time.sleep(60)),
        *(killed(victim) for victim in KILLED),
        *(killed(*victims) for victims in PAIRS),
        *(frozen(victim) for victim in KILLED),
        *(full(service) for service in ("kafka", "mongo")),
        ("the model is swapped", lambda: swapped(stack)),
        ("it is swapped, kill -9 of Airflow's scheduler", lambda: interrupted(stack, "airflow-scheduler")),
        ("it is swapped, kill -9 of Spark Connect", lambda: interrupted(stack, "spark-connect")),
        ("three deployments at once", lambda: three_at_once(stack)),
        (f"stopped by a person for {STOPPED_SECONDS} s", lambda: stopped_for(stack, STOPPED_SECONDS)),
        (f"all of Airflow down, {AWAY_SECONDS} s", lambda: airflow_away(stack, AWAY_SECONDS)),
        ("clock of all processes off by +1 h: stopped queries leave the memory", lambda: forgotten(stack, clock)),
        # After the clock went back, Airflow takes a scheduler that is killed then for alive for as long.
        *(jumped(seconds) for seconds in JUMPS),
        ("make down, make up", lambda: down_and_up(stack.settings, clock)),
    ]


def forgotten(stack: Stack, clock: Clock) -> None:
    """An hour later the server holds one query, the one that runs, and no forests of others."""
    before = faults.held(stack)
    jump(clock, 3600)
    after = until(lambda: (held := faults.held(stack)).queries == 1 and held, 120, "it to forget the others", every=5)
    say(f"{before} before, {after} after")
    assert after.forests < before.forests or before.queries == 1, (before, after)


def jump(clock: Clock, seconds: int) -> None:
    """Sets the clock of all processes off, and lets them notice."""
    clock.jump(seconds)
    time.sleep(15)


def prove(stack: Stack, clock: Clock, options: argparse.Namespace) -> tuple[list[Phase], Witness, Verdict]:
    """The faults that `options.only` matches, one after the other, while flights flow."""
    witness = Witness(stack.settings, stack.web_url, rate=options.rate)
    phases: list[Phase] = []

    def phase(name: str, fault: Callable[[], object]) -> None:
        say(name)
        current = Phase(name)
        fault()
        faults.recovered(witness, time.monotonic())
        current.end = time.monotonic()
        phases.append(current)
        time.sleep(REST_SECONDS)

    if (states := run_dag(stack, DagId.TRAINING, SECOND_MODEL, seconds=600))["run"] != "success":
        raise RuntimeError(f"the second training failed: {states}")
    settled(stack)
    witness.start()
    try:
        for name, fault in faults_of(stack, clock):
            if re.search(options.only, name):
                phase(name, fault)
        missing = options.requests - len(witness.exchanges)
        if missing > 0 and not options.only:
            phase(f"nothing, until {options.requests:,} are sent", lambda: time.sleep(missing / options.rate))
    finally:
        witness.finish()
    answering = faults.answering(stack.settings)
    assert answering == {settled(stack).generation}, f"deployments {answering} answer"
    say("comparing all answers")
    return phases, witness, witness.verdict()


def down_and_up(settings: Settings, clock: Clock) -> None:
    """`make down` in the middle of traffic, then `make up`."""
    down(settings)
    with clock.worn():
        up(settings)


def report(phases: list[Phase], exchanges: list[Exchange], verdict: Verdict, rate: float, left: list[str]) -> str:
    """docs/reliability.md."""
    rows = []
    for phase in phases:
        found = [one for one in exchanges if phase.begin <= one.scheduled < phase.end]
        accepted = [one for one in found if one.uuid is not None]
        refused = sum(one.status == 503 for one in found)
        nobody = sum(one.status is None for one in found)
        waits = [one.answered - one.accepted for one in accepted if one.answered and one.accepted]
        other = len(found) - len(accepted) - refused - nobody
        longest = f"{max(waits):.1f}" if waits else ""
        cells = (
            *(phase.name, f"{phase.end - phase.begin:.0f}", len(found), len(accepted), refused, nobody),
            *(other, longest, len(accepted) - len(waits)),
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    table = "\n".join(rows)
    outcome = "Nothing was lost." if verdict.clean else "**The proof failed.**"
    return f"""# Reliability

{outcome} {len(exchanges):,} flights were sent, {rate:g} a second, while the services of one installation were broken
one after the other. {verdict.accepted:,} of them were accepted.

| at the end | |
|---|---|
| accepted, but without exactly one document, or not readable over HTTP | {len(verdict.lost)} |
| answers that changed after they could be read ({verdict.reread:,} second readings) | {len(verdict.changed)} |
| accepted, but rejected by the predictor | {len(verdict.rejected)} |
| answers that differ in a digit from the batch job with the model that they name | {len(verdict.differing)} |
| processes left behind after `make down` | {len(left)} |
| answers by deployment | {", ".join(f"{name}: {count:,}" for name, count in verdict.deployments.items())} |

| while | seconds | sent | accepted | refused (503) | no response | other | longest wait, s | no answer |
|---|---|---|---|---|---|---|---|---|
{table}

"While" lasts from the fault until a flight that left after it was answered. Refused flights were told so, with
`Retry-After`; "no response" is a connection refused or cut, so no promise either. The longest wait is that of an
accepted flight, from the acceptance to the answer: Kafka had it when a service behind died, and it was answered once
that was back. A query that is gone is brought back by Airflow alone: its watch triggers the DAG
`flight_delay_predictor`. In the end one query answers, the one that the state names; after Airflow's absence it was the
same as before.

Measured on {machine()}
Written by `make proof` (`tests/proof`); `make test` runs a short form.
"""


if __name__ == "__main__":
    main()
