"""`make up` and `make down`: from nothing, or from wherever the last one was interrupted, to a predicted flight."""

from __future__ import annotations

import datetime as dt
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from flight_delays.contract import SUBMIT_PATH, DagId
from flight_delays.errors import sentence
from flight_delays.infra import files, mongo
from flight_delays.model import registry
from flight_delays.predictor.state import Action, State, Wanted, read_state
from flight_delays.predictor.workload import CANARY
from flight_delays.settings import LOOPBACK, Settings
from stack import artifacts, state
from stack.airflow_api import ACTIVE, AirflowApi, retrying
from stack.secrets import Secrets, load_secrets
from stack.services import BIN, Service, airflow_environment, inherited_environment, services
from stack.steps import START, Step, StepFailedError, step
from stack.supervisor import STORES, Supervisor

SERVICE_SECONDS = 300
DAGS_SECONDS = 300
CHAIN_SECONDS = 1500
ANSWER_SECONDS = 120
PREDICTOR_RUNS = 3
"""How often the predictor's DAG may fail before `make up` does: a service may have restarted meanwhile."""
CHAIN = (DagId.RECORDS, DagId.DISTANCES, DagId.CONDITIONS, DagId.TRAINING, DagId.PREDICTOR)
"""The DAGs that lead to a serving predictor."""


def up(settings: Settings, months: str | None = None) -> None:
    """Starts what does not run yet and returns once a flight came back predicted. Raises StepFailedError.

    `months`, e.g. "2013-07..2013-12": the first model learns from these alone, and serves even where the gate refuses
    it; default: all.
    """
    begin = time.monotonic()
    with locked(settings):
        with step("state") as current:  # before anything else makes folders of the home
            secrets = load_secrets(settings)
            supervisor = Supervisor(settings)
            current.result = state.check(settings) if supervisor.running() else state.migrate(settings)
        with step("JVM artifacts") as current:
            current.say("fetching and checking")
            current.result = artifacts.fetch(settings)
        wanted = services(settings, secrets)
        started = _start(settings, supervisor, wanted, secrets)
        for service in wanted:
            with step(service.name, log=supervisor.logs / f"{service.name}.log", hint="make logs") as current:
                await_ready(settings, supervisor, service, current)
        with step("DAGs", log=supervisor.logs / "airflow-dag-processor.log") as current:
            api = await_dags(settings, secrets, current)
        refuse_stopped(settings, api)
        prediction = _predict_on_the_way(settings) if not started else None
        if prediction is None:
            hint = "open Airflow, read the failed task's log, fix the cause, and `make up` again"
            with step("predictor", hint=hint) as current:
                await_predictor(settings, api, current, months)
            with step("prediction", log=supervisor.logs / "spark-connect.log", hint="make status") as current:
                current.say("a flight is on its way")
                prediction = submit_flight(settings, ANSWER_SECONDS)
                current.result = "came back"
        api.pause(DagId.HEALTH, False)
        _show(settings, secrets, prediction, time.monotonic() - begin)


class PredictorStoppedError(StepFailedError):
    """All services run, but a person stopped the predictor."""


def down(settings: Settings, keep: tuple[str, ...] = ()) -> None:
    """Stops every process of this installation but those of the services to `keep`; its state stays."""
    with locked(settings), step("stack") as current:
        supervisor = Supervisor(settings)
        if not supervisor.running():
            current.result = "was not running"
            return
        current.say("stopping")
        missing = ""
        try:
            AirflowApi(settings, load_secrets(settings)).pause(DagId.HEALTH)
        except httpx.HTTPError:
            pass  # an Airflow that does not answer keeps its schedule; the health check copes
        except StepFailedError as error:
            missing = f", but {error}"
        supervisor.stop(keep)
        current.result = f"stopped; state stays in {settings.home}{missing}"


def act(settings: Settings, action: str, version: str | None = None) -> None:
    """Has Airflow start, stop, restart or deploy, and returns at the run's end. Raises StepFailedError if it fails."""
    with step(f"predictor: {action}") as current:
        if not Supervisor(settings).running():  # another program may have Airflow's port, and must not get the password
            raise StepFailedError("the stack does not run", hint="make up")
        run_predictor(settings, load_secrets(settings), action, version, current)


def run_predictor(settings: Settings, secrets: Secrets, action: str, version: str | None, current: Step) -> None:
    """Runs the predictor's DAG and returns at the run's end. Raises StepFailedError if it fails."""
    try:
        api = AirflowApi(settings, secrets)
        run_id = api.trigger(DagId.PREDICTOR, {"action": action, "version": version})
    except httpx.HTTPStatusError as error:
        raise StepFailedError(f"Airflow refuses {action}: {error.response.text}") from error
    except httpx.HTTPError as error:
        raise StepFailedError(f"Airflow does not answer: {error}", hint="make up") from error
    while (run := api.run(DagId.PREDICTOR, run_id))["state"] in ACTIVE:
        current.say(f"run {run_id} is {run['state']}")
        time.sleep(0.5)
    if run["state"] != "success":
        raise _failed_run(settings, api, DagId.PREDICTOR, run_id)
    current.result = "done"


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Lets one command at a time change the installation. Raises StepFailedError where another one is at work."""
    with ExitStack() as lock:
        try:
            lock.enter_context(files.locked(settings.home / ".lock", wait=False))
        except BlockingIOError:
            why = f"another command (make up, down, backup, restore) is at work on {settings.home}"
            raise StepFailedError(why, hint="wait for it to end") from None
        yield


# --- processes -------------------------------------------------------------------------------------------------------


def _start(settings: Settings, supervisor: Supervisor, wanted: list[Service], secrets: Secrets) -> bool:
    with step("process manager") as current:
        if running := supervisor.running():
            current.result = running_already(settings, set(supervisor.states()), wanted)
        else:
            check_ports(settings, wanted)
            supervisor.start(wanted)
            state.remember_start(settings)
            current.result = "started"
    finish_restore(settings, supervisor, wanted)
    if not running:
        log = supervisor.logs / "airflow-db.log"
        with step("Airflow's database", log=log) as current:
            current.say("migrating")
            current.result = _migrate(settings, secrets, log)
    return bool([service for service in wanted if supervisor.start_service(service.name)])


def finish_restore(settings: Settings, supervisor: Supervisor, wanted: list[Service]) -> None:
    """Makes MongoDB and Kafka agree where a restore brought back only one of them, before the sink starts."""
    if (settings.home / state.RESTORED_IN_PART).exists():
        with step("restored state", hint="make up") as current:
            for service in wanted:
                if service.name in STORES:
                    await_ready(settings, supervisor, service, current)
            state.finish_restore(settings)
            current.result = "all answers go from Kafka to MongoDB again"


def running_already(settings: Settings, running: set[str], wanted: list[Service]) -> str:
    """What to say of a stack that runs. Raises StepFailedError where it lacks a service that this code needs."""
    changed = state.changed_since_start(settings)
    if missing := {service.name for service in wanted} - running:
        why = f"the running stack was started with other code or settings and has no {', '.join(sorted(missing))}"
        raise StepFailedError(why, hint="make down up")
    return f"runs with older {' and '.join(changed)}: make down up" if changed else "runs already"


def check_ports(settings: Settings, wanted: list[Service]) -> None:
    """Raises StepFailedError for a port that another program holds, with the setting that moves it."""
    for name in [*(port for service in wanted for port in service.ports), "port_supervisor"]:
        port = getattr(settings, name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                description = type(settings).model_fields[name].description
                raise StepFailedError(
                    f"port {port} ({description}) is taken by another program",
                    hint=f"end that program, or move this port (FLIGHTS_{name.upper()}=NUMBER make up) "
                    f"or all ports (FLIGHTS_PORT_OFFSET={settings.port_offset + 300} make up)",
                ) from None


def _migrate(settings: Settings, secrets: Secrets, log: Path) -> str:
    stamp, release = settings.home / "airflow" / ".migrated", version("apache-airflow")
    if stamp.is_file() and stamp.read_text() == release:
        return "as it was"
    environment = inherited_environment() | airflow_environment(settings, secrets)
    with log.open("w") as file:
        command = [str(BIN / "airflow"), "db", "migrate"]
        done = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False)
    if done.returncode != 0:
        raise StepFailedError("`airflow db migrate` failed")
    stamp.write_text(release)
    return "migrated"


def await_ready(settings: Settings, supervisor: Supervisor, service: Service, current: Step) -> None:
    """Returns once the service itself answers; starts it where it was stopped. Raises StepFailedError in time."""
    deadline = time.monotonic() + SERVICE_SECONDS
    while True:
        supervisor.start_service(service.name)
        try:
            service.ready(settings)
        except Exception as error:
            if time.monotonic() > deadline:
                why = f"{service.name} is not ready after {SERVICE_SECONDS} s: {sentence(error)}"
                raise StepFailedError(why) from error
            current.say("starting")
            time.sleep(0.3)
        else:
            current.result = "ready"
            return


# --- Airflow ---------------------------------------------------------------------------------------------------------


def await_dags(settings: Settings, secrets: Secrets, current: Step) -> AirflowApi:
    """Returns once Airflow has parsed all DAGs; unpauses them. Raises StepFailedError with the first error.

    The health check stays paused until a predictor serves: before, it would only say that none does.
    """
    deadline = time.monotonic() + DAGS_SECONDS
    api = AirflowApi(settings, secrets, SERVICE_SECONDS)
    while missing := [dag for dag in DagId if dag not in api.dags()]:
        if errors := api.import_errors():
            raise StepFailedError("a DAG file cannot be imported:\n" + errors[0])
        if time.monotonic() > deadline:
            raise StepFailedError(f"Airflow has not found the DAGs {', '.join(missing)} after {DAGS_SECONDS} s")
        current.say(f"waiting for {len(missing)}")
        time.sleep(0.5)
    for dag in set(DagId) - {DagId.HEALTH}:
        api.pause(dag, False)
    current.result = f"{len(DagId)} parsed"
    return api


def refuse_stopped(settings: Settings, api: AirflowApi) -> None:
    """Raises PredictorStoppedError where a person stopped the predictor: only a person starts it again."""
    if _state(settings).wanted is Wanted.STOPPED:
        api.pause(DagId.HEALTH, False)
        raise PredictorStoppedError("all services run, but a person stopped the predictor", hint=START)


def await_predictor(settings: Settings, api: AirflowApi, current: Step, months: str | None = None) -> None:
    """Triggers what leads to a serving predictor, where it is not under way, and follows the runs; `months` as in `up`.

    The predictor's DAG may fail a few times: the watch may have triggered it too early, while the services started.
    """
    begin, deadline = dt.datetime.now(dt.UTC), time.monotonic() + CHAIN_SECONDS
    _trigger(settings, api, months, under_way=_runs(api, begin))
    failures, unfit = 0, ""
    while time.monotonic() < deadline:
        runs = _runs(api, begin)
        newest = {run["dag_id"]: run for run in reversed(runs)}  # what failed before them was repeated
        for run in newest.values():
            if run["state"] == "failed":
                failures += 1
                if run["dag_id"] != DagId.PREDICTOR or failures == PREDICTOR_RUNS:
                    raise _failed_run(settings, api, run["dag_id"], run["dag_run_id"])
                api.trigger(DagId.PREDICTOR)
        succeeded = {run["dag_id"] for run in runs if run["state"] == "success"}
        if DagId.TRAINING in succeeded and not unfit and not registry.read_pointer(settings.models).champion:
            unfit = _deploy_unfit(settings, api, months)
        if DagId.PREDICTOR in succeeded and (served := _serves(settings)):
            current.result = served + unfit
            return
        current.say(_running_tasks(api) or "waiting for Airflow")
        time.sleep(1)
    raise StepFailedError(f"no model serves after {CHAIN_SECONDS // 60} minutes")


def _trigger(settings: Settings, api: AirflowApi, months: str | None, under_way: list[dict[str, Any]]) -> None:
    if registry.read_pointer(settings.models).champion is not None:
        api.trigger(DagId.PREDICTOR)
        if not settings.weather.is_dir():  # the state is of release 0.1.0
            api.trigger(DagId.CONDITIONS, {"announce": False})
    elif all(run["dag_id"] == DagId.PREDICTOR for run in under_way):
        api.trigger(DagId.RECORDS, {"announce_unchanged": True, "months": months})


def _runs(api: AirflowApi, begin: dt.datetime) -> list[dict[str, Any]]:
    """The runs of the chain's DAGs that had not ended at that time, newest first."""
    runs = [run for run in api.runs("~", 100) if run["dag_id"] in CHAIN]
    return [run for run in runs if not run["end_date"] or dt.datetime.fromisoformat(run["end_date"]) > begin]


def _deploy_unfit(settings: Settings, api: AirflowApi, months: str | None) -> str:
    """Deploys the first model, which the gate refused, where a person chose the few `months` that it learned from.

    Returns what is wrong with the model. Raises StepFailedError where nobody chose.
    """
    version = registry.versions(settings.models)[0]
    verdict = registry.read_verdict(settings.models, version)
    if months is None or settings.require_approval or verdict is None or verdict.passed:
        hint = "make models says why; the training DAG has a parameter `force`"
        raise StepFailedError("the new model was not promoted", hint=hint)
    api.trigger(DagId.PREDICTOR, {"action": Action.DEPLOY.value, "version": version})
    return f", although {'; '.join(verdict.reasons)}"


def _running_tasks(api: AirflowApi) -> str:
    running = [task["task_id"] for task in api.tasks("~", "~", state="running") if task["dag_id"] in CHAIN]
    return ", ".join(dict.fromkeys(running))


def _state(settings: Settings) -> State:
    with mongo.database(settings) as db:
        return retrying(SERVICE_SECONDS)(read_state, db)


def _serves(settings: Settings) -> str | None:
    """What serves, in words; None where that is not yet what should."""
    pointer = registry.read_pointer(settings.models)
    state = _state(settings)
    if pointer.champion is None or state.serving is None or state.in_progress:
        return None
    if state.serving.version == pointer.champion:
        return "serves the champion"
    failure = state.failure(pointer)
    return f"{state.serving.version} serves in place of the champion: {failure.reason}" if failure else None


def _failed_run(settings: Settings, api: AirflowApi, dag: str, run: str) -> StepFailedError:
    failed = next((task for task in api.tasks(dag, run) if task["state"] == "failed"), None)
    if failed is None:
        return StepFailedError(f"the run {run} of the DAG {dag} failed")
    logs = settings.home / "airflow" / "logs" / f"dag_id={dag}" / f"run_id={run}" / f"task_id={failed['task_id']}"
    log = max(logs.rglob("*.log"), key=lambda path: path.stat().st_mtime, default=None)
    return StepFailedError(f"task {failed['task_id']} of the DAG {dag} failed (run {run})", log=log)


# --- a flight --------------------------------------------------------------------------------------------------------


def submit_flight(settings: Settings, timeout_seconds: float) -> dict[str, Any]:
    """Submits a flight of a well-known route as the form does and returns the answer. Raises StepFailedError."""
    flight = {name: str(value) for name, value in CANARY.items() if name != "Distance"}
    deadline = time.monotonic() + timeout_seconds
    with httpx.Client(base_url=settings.web_url, timeout=40) as client:

        def ask(method: str, path: str, **request: Any) -> dict[str, Any]:
            response = client.request(method, path, **request)
            response.raise_for_status()
            return dict(response.json())

        try:
            uuid = retrying(timeout_seconds)(ask, "POST", SUBMIT_PATH, data=flight)["id"]
            while (left := deadline - time.monotonic()) > 0:
                wait = {"wait": f"{min(left, 20):.1f}"}
                answer = retrying(left)(ask, "GET", f"{SUBMIT_PATH}/response/{uuid}", params=wait)
                if answer["status"] != "WAIT":
                    return answer
        except httpx.HTTPStatusError as error:
            text = f"the web app refused a flight with {error.response.status_code}: {error.response.text}"
            raise StepFailedError(text) from error
    raise StepFailedError(f"the flight {uuid} was not predicted within {timeout_seconds:.0f} s")


def _predict_on_the_way(settings: Settings) -> dict[str, Any] | None:
    """On a running stack: the prediction, where the predictor answers at once."""
    if not _serves(settings):
        return None
    try:
        with step("prediction") as current:
            prediction = submit_flight(settings, 5)
            current.result = "came back"
            return prediction
    except StepFailedError:
        return None


def _show(settings: Settings, secrets: Secrets, answer: dict[str, Any], seconds: float) -> None:
    if answer["status"] != "OK":
        raise StepFailedError(f"the flight came back as {answer}")
    prediction = answer["prediction"]
    probability = prediction["Probability"][prediction["Prediction"]]
    flight = f"{prediction['Carrier']}{prediction['FlightNum']} {prediction['Origin']} → {prediction['Dest']}"
    base = f"http://{LOOPBACK}:"
    password = secrets.airflow_password if sys.stdout.isatty() else f"is in {settings.home / 'secrets.json'}"
    print(f"""
{flight} on {prediction["FlightDate"][:10]}, {prediction["DepDelay"]:.0f} minutes late at departure:
  {answer["label"]} ({probability:.0%}), says model {prediction["ModelVersion"]}

  Web form   {settings.web_url}/flights/delays/predict_kafka
  Airflow    {base}{settings.port_airflow}   user admin, password {password}
  Spark UI   {base}{settings.port_spark_ui}

Up after {seconds:.0f} s. Next: make status, make listen, make logs, make down.""")
