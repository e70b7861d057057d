"""A stack for the benchmarks alone: its own folder and ports, from `make up` to `make down`, and what is done to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from flight_delays.contract import DagId
from flight_delays.infra import mongo
from flight_delays.model import registry
from flight_delays.predictor.control import reconcile
from flight_delays.predictor.state import read_state
from flight_delays.settings import LOOPBACK, PROJECT, Settings
from stack.airflow_api import AirflowApi
from stack.console import memory_bytes
from stack.secrets import load_secrets
from stack.services import services
from stack.steps import Step
from stack.supervisor import Supervisor
from stack.up import await_ready

FIRST_OFFSET: Final = 5_100
_UP_SECONDS: Final = 1800
_T = TypeVar("_T")


def until(what: str, seconds: float, condition: Callable[[], _T], *, every: float = 0.2) -> _T:
    """The condition's first true value. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
    return found


def own_settings(home: Path) -> Settings:
    """Settings of an installation under `home`, on ports that nobody holds; a person's settings do not count."""
    for name in [name for name in os.environ if name.startswith("FLIGHTS_") or name == "MONGO_URI"]:
        if name != "FLIGHTS_IVY_SETTINGS":
            del os.environ[name]
    offset = FIRST_OFFSET
    while _taken(offset + 9092) or _taken(offset + 9001):
        offset += 100
    return Settings(home=home, port_offset=offset)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@dataclass(frozen=True)
class Installation:
    """The stack that `make` in `checkout` starts for these settings."""

    checkout: Path
    settings: Settings

    # --- from up to down ---------------------------------------------------------------------------------------------

    def up(self) -> float:
        """`make up`; its seconds. Raises RuntimeError with the end of its output where it fails."""
        return self._make("up")

    def down(self) -> float:
        """`make down`; its seconds."""
        return self._make("down")

    def _make(self, target: str) -> float:
        begin = time.monotonic()
        # The virtual environment that this runs in is not the one that a fresh checkout makes for itself.
        command = ["make", target, f"PYTHON={sys.base_prefix}/bin/python3"]
        environment = {**os.environ, **self.settings.environment}
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_UP_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise RuntimeError(f"`make {target}` failed:\n{tail}")
        return time.monotonic() - begin

    # --- the parts ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The web app's address."""
        return self.settings.web_url

    @cached_property
    def supervisor(self) -> Supervisor:
        """The process manager's client."""
        return Supervisor(self.settings)

    @cached_property
    def db(self) -> Any:
        """The database."""
        return mongo.connect(self.settings)

    def airflow(self) -> AirflowApi:
        """Airflow's API; made for each call, because a login expires."""
        return AirflowApi(self.settings, load_secrets(self.settings))

    def memory_bytes(self) -> int:
        """Proportional set size of the whole stack: memory that processes share is counted once in all."""
        return memory_bytes(self.supervisor.pid())

    def await_serving_champion(self, seconds: float) -> None:
        """Returns once the champion serves."""

        def serves() -> bool:
            champion = registry.read_pointer(self.settings.models).champion
            state = read_state(self.db)
            return state.serving is not None and state.serving.version == champion and not state.retiring

        until("the champion serves", seconds, serves)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Airflow runs on but starts no DAG: none repairs what is taken away on purpose."""
        api = self.airflow()
        dags = [dag for dag in DagId if not api.dags()[dag]["is_paused"]]

        def at_rest() -> bool:  # a paused DAG's run stays "running", but none of its tasks is started
            runs = [(dag, run["dag_run_id"]) for dag in DagId for run in api.runs(dag) if run["state"] == "running"]
            return not any(task["state"] in ("queued", "running") for run in runs for task in api.tasks(*run))

        try:
            for dag in dags:
                api.pause(dag)
            until("the end of the tasks under way", 300, at_rest)
            yield
        finally:
            for dag in dags:
                self.airflow().pause(dag, False)

    def start(self, *names: str) -> None:
        """Starts services and waits until they answer."""
        for service in services(self.settings, load_secrets(self.settings)):
            if service.name in names:
                self.supervisor.start_service(service.name)
                await_ready(self.settings, self.supervisor, service, Step(service.name))

    def stop(self, *names: str) -> None:
        """Stops services."""
        for name in names:
            self.supervisor.stop_service(name)

    def kill(self, name: str) -> None:
        """Ends the service's process with SIGKILL; the process manager starts it again."""
        os.kill(self.supervisor.states()[name]["pid"], signal.SIGKILL)

    def redeploy(self, **changes: Any) -> Settings:
        """Starts the query again, on a fresh Spark Connect server, with these settings changed; returns all of them."""
        changed = self.settings.model_copy(update=changes)
        self.stop("spark-connect")
        self.start("spark-connect")
        with mongo.database(changed) as db:
            reconcile(changed, db)
        return changed

    @property
    def batches(self) -> int:
        """How many batches the serving query has committed."""
        serving = read_state(self.db).serving
        assert serving is not None  # noqa: S101 - the stack is up
        commits = self.settings.checkpoints / serving.checkpoint / "commits"
        return max((int(file.name) + 1 for file in commits.glob("[0-9]*")), default=0)


@contextmanager
def installation(settings: Settings, *, fresh_clone: bool) -> Iterator[Installation]:
    """An installation that is down at first, and down again at the end.

    A fresh clone is one of the last commit, made beside `settings.home`; else the stack is started from this checkout.
    """
    checkout = PROJECT
    if fresh_clone:
        checkout = settings.home.parent / "clone"
        subprocess.run(["git", "clone", "-q", str(PROJECT), str(checkout)], check=True)
    found = Installation(checkout, settings)
    try:
        yield found
    finally:
        if found.supervisor.running():
            found.supervisor.stop()
