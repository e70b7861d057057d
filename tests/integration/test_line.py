"""The whole line on real services, as `make up` leaves it."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from confluent_kafka import Consumer

from flight_delays.contract import RESPONSE_TOPIC, Collection, DagId
from flight_delays.data.records import Manifest
from flight_delays.infra import mongo
from flight_delays.model import registry
from flight_delays.predictor import engine
from flight_delays.predictor.events import Event, Kind, last_events
from flight_delays.predictor.state import State, read_state
from flight_delays.predictor.workload import CANARY
from flight_delays.settings import LOOPBACK, PROJECT
from stack import artifacts, console
from stack.airflow_api import ACTIVE, AirflowApi
from stack.services import inherited_environment, spark_environment
from stack.steps import Step, StepFailedError
from stack.up import act, await_predictor, submit_flight, up
from tests.conftest import Stack
from tests.integration.line import answer, check, flight, goes_on, put, run_dag, until
from tests.web import original_page
from tests.web.form import RESPONSE, SUBMIT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]


def generation(line: Stack) -> int:
    return read_state(mongo.connect(line.settings)).generation


def test_a_flight_from_the_form_is_predicted(line: Stack) -> None:
    form = {name: value for name, value in CANARY.items() if name != "Distance"} | {"Carrier": "ua"}
    accepted = httpx.post(line.web_url + SUBMIT, data=form)
    assert accepted.status_code == 202
    uuid = accepted.json()["id"]
    assert accepted.headers["Location"] == f"{RESPONSE}{uuid}"
    found = answer(line, uuid)
    assert found["status"] == "OK"
    prediction = found["prediction"]
    assert prediction["UUID"] == uuid
    assert prediction["Route"] == "EWR-SFO"
    assert prediction["Distance"] == 2565.0
    assert (prediction["DayOfYear"], prediction["DayOfMonth"], prediction["DayOfWeek"]) == (354, 20, 5)
    assert prediction["DestGain7Days"] == pytest.approx(-4.356, abs=0.001), "looked up, and carried all the way"
    assert sum(prediction["Probability"]) == pytest.approx(1)
    assert prediction["Probability"][prediction["Prediction"]] == max(prediction["Probability"])
    assert prediction["ModelVersion"] == registry.read_pointer(line.settings.models).champion
    document = mongo.connect(line.settings)[Collection.RESPONSES].find_one({"_id": uuid})
    assert document is not None
    assert isinstance(document["PredictedAt"], dt.datetime)
    assert document["FlightDate"] == dt.datetime(2013, 12, 20, tzinfo=dt.UTC)


def test_the_originals_example_is_answered_with_a_remark(line: Stack) -> None:
    example = {"DepDelay": 5, "Carrier": "AA", "FlightDate": "2016-12-25", "Origin": "ATL", "Dest": "SFO"}
    accepted = httpx.post(line.web_url + SUBMIT, json={**example, "FlightNum": "1519"})
    found = answer(line, accepted.json()["id"])
    assert found["status"] == "OK"
    assert set(found["unseen"]) == {"Origin", "Route"}


def test_the_originals_page_renders_a_prediction(line: Stack) -> None:
    rendered = original_page.predict(line.web_url, original_page.FORM, 30)
    assert rendered["Prediction"] in range(4)
    assert (rendered["Route"], rendered["FlightDate"], rendered.get("FlightNum")) == ("ATL-SFO", "2016-12-25", None)


def test_the_originals_web_app_finds_its_answer(line: Stack) -> None:
    """It writes to the topic itself, without a key, what the form has: text as typed, null for what it lacks."""
    typed = {"DepDelay": 5.0, "Carrier": "aa", "FlightDate": "2016-12-25", "Dest": "sfo", "FlightNum": None}
    looked_up = {"Origin": "atl", "Distance": 2139.0, "DayOfYear": 360, "DayOfMonth": 25, "DayOfWeek": 6}
    sent = {**typed, **looked_up, "Timestamp": dt.datetime.now().isoformat(), "UUID": str(uuid4())}  # noqa: DTZ005
    put(line, json.dumps(sent).encode())
    responses = mongo.connect(line.settings)[Collection.RESPONSES]
    found = until(lambda: responses.find_one({"UUID": sent["UUID"]}), 30, "the answer")
    assert (found["Carrier"], found["Route"], found["DayOfWeek"], "FlightNum" in found) == ("AA", "ATL-SFO", 7, False)
    assert found["Timestamp"].isoformat(timespec="milliseconds")[:23] == sent["Timestamp"][:23], "no zone is UTC"


def test_a_state_without_conditions_gets_them(line: Stack) -> None:
    shutil.rmtree(line.settings.weather)
    await_predictor(line.settings, AirflowApi(line.settings, line.secrets), Step("predictor"))
    until((line.settings.weather / "weather.parquet").is_file, 120, "the weather")


def test_up_waits_for_what_restarts(line: Stack) -> None:
    api = AirflowApi(line.settings, line.secrets, 120)
    line.kill("airflow-api-server")
    dies_meanwhile = [threading.Timer(seconds, line.kill, ["mongo"]) for seconds in (1, 4)]
    for each in dies_meanwhile:
        each.start()
    try:
        await_predictor(line.settings, api, Step("predictor"))
        assert submit_flight(line.settings, 60)["status"] == "OK"
    finally:
        for each in dies_meanwhile:
            each.join()
        line.await_ready("mongo")


def test_the_health_check_proves_predictions(line: Stack) -> None:
    states = run_dag(line, DagId.HEALTH)
    assert states == {
        "run": "success",
        "query_is_active": "success",
        "send_canaries": "success",
        "canaries_stored": "success",
    }
    assert mongo.connect(line.settings)[Collection.RESPONSES].find_one({"Canary": True}) is None


def test_a_wrong_param_through_airflow_ends_the_log_with_one_sentence(line: Stack) -> None:
    assert run_dag(line, DagId.RECORDS, {"url": "https://example.com/flights.jsonl"})["run"] == "failed"
    logs = (line.settings.home / "airflow" / "logs").glob(f"dag_id={DagId.RECORDS}/*/task_id=plan/attempt=1.log")
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    entries = [json.loads(entry) for entry in newest.read_text().splitlines()]
    last = [entry for entry in entries if not entry["event"].startswith("::")][-1]
    assert last["reason"].startswith("url: only source archive takes it")
    assert "error_detail" not in last


def test_maintenance_removes_nothing_that_is_in_use(line: Stack) -> None:
    uuid = submit_flight(line.settings, 30)["id"]
    before = registry.versions(line.settings.models)
    states = run_dag(line, DagId.MAINTENANCE)
    wanted = {"answers", "rejected", "replays", "events", "models", "checkpoints", "files", "logs"}
    wanted |= {"airflow_database", "run"}
    assert states == dict.fromkeys(wanted, "success")
    assert answer(line, uuid)["status"] == "OK"
    assert registry.versions(line.settings.models) == before
    assert run_dag(line, DagId.MAINTENANCE, {"dry_run": True})["run"] == "success"
    check(line.settings)


@pytest.mark.slow
def test_airflow_takes_changes_while_tasks_run(line: Stack) -> None:
    """SQLite has one writer at a time: people's requests and the tasks' must not wait for each other in a circle."""
    api = AirflowApi(line.settings, line.secrets)
    run_ids = {api.trigger(DagId.HEALTH) for _ in range(3)}
    deadline = time.monotonic() + 240
    while any(run["state"] in ACTIVE for run in api.runs(DagId.HEALTH, 20) if run["dag_run_id"] in run_ids):
        assert time.monotonic() < deadline
        for paused in (True, False):
            api.pause(DagId.DEAD_LETTERS, paused)  # raises for a status above 400
        time.sleep(0.05)


def test_a_killed_scheduler_leaves_no_workers_behind(line: Stack) -> None:
    killed = line.supervisor.states()["airflow-scheduler"]["pid"]
    workers = psutil.Process(killed).children()
    assert workers
    line.kill("airflow-scheduler")
    until(lambda: not any(worker.is_running() for worker in workers), 60, "the end of the killed scheduler's workers")
    line.await_ready("airflow-scheduler")
    assert line.supervisor.states()["airflow-scheduler"]["pid"] != killed


def test_up_again_starts_and_triggers_nothing(line: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    api = AirflowApi(line.settings, line.secrets)
    mine = [DagId.RECORDS, DagId.TRAINING, DagId.PREDICTOR]
    runs = {dag: [run["dag_run_id"] for run in api.runs(dag, 50)] for dag in mine}
    pids = {name: state["pid"] for name, state in line.supervisor.states().items()}
    up(line.settings)
    assert "says model" in capsys.readouterr().out
    assert {name: state["pid"] for name, state in line.supervisor.states().items()} == pids
    assert {dag: [run["dag_run_id"] for run in api.runs(dag, 50)] for dag in mine} == runs


def test_every_socket_listens_on_loopback_only(line: Stack) -> None:
    root = psutil.Process(line.supervisor.pid())
    listening = set()
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # a task's process may end meanwhile
            found = [each.laddr.ip for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
            listening |= {(process.name(), ip) for ip in found}
    assert len(listening) >= 5
    assert {ip for _, ip in listening} <= {LOOPBACK, "::ffff:127.0.0.1", "::1"}, listening


def test_secrets_are_for_their_owner_only(line: Stack) -> None:
    private = [path for path in line.settings.home.rglob("*") if path.name in ("secrets.json", "supervisord.conf")]
    private.append(line.settings.home / "airflow" / "passwords.json")
    for path in private:
        assert path.stat().st_mode & 0o077 == 0, path


def test_spark_submit_runs_the_predictor_the_originals_way(line: Stack, tmp_path: Path) -> None:
    consumer = Consumer({"bootstrap.servers": line.settings.kafka_bootstrap, "group.id": str(uuid4())})
    consumer.subscribe([RESPONSE_TOPIC])
    until(lambda: consumer.poll(0.1) is None and consumer.assignment(), 20, "the consumer's assignment")
    jars = ",".join(str(jar) for jar in (artifacts.JARS / "spark").glob("*.jar"))
    environment = inherited_environment() | spark_environment() | line.settings.environment
    submit = [str(artifacts.spark_home() / "bin" / "spark-submit"), "--master", "local[2]", "--driver-memory", "512m"]
    submit += ["--conf", "spark.ui.enabled=false", "--jars", jars]
    script = [str(PROJECT / "spark_jobs" / "streaming_predictor.py"), "--checkpoint", str(tmp_path / "checkpoint")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*submit, *script], env=environment, stdout=log, stderr=log)
    message = flight()
    put(line, json.dumps(message).encode())

    def answered_by_script() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        found = consumer.poll(1)
        if found is None or found.error():
            return False
        value = json.loads(found.value())
        return value["UUID"] == message["UUID"] and value["Deployment"] == 0

    try:
        until(answered_by_script, 120, "an answer of the script")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        consumer.close()


def _settled(line: Stack) -> State | None:
    state = read_state(mongo.connect(line.settings))
    return None if state.in_progress else state


def _form() -> dict[str, Any]:
    return {name: value for name, value in CANARY.items() if name != "Distance"}


def _last(line: Stack) -> Event:
    return last_events(mongo.connect(line.settings), 1)[0]


def test_a_killed_engine_is_repaired_by_the_watch_and_nothing_is_lost(line: Stack) -> None:
    before = until(lambda: _settled(line), 60, "a settled state")
    line.kill("spark-connect")
    accepted = [httpx.post(line.web_url + SUBMIT, json=_form()).json()["id"] for _ in range(10)]
    for uuid in accepted:
        until(lambda uuid=uuid: answer(line, uuid)["status"] == "OK", 120, "an answer to what was accepted meanwhile")
    state = until(lambda: generation(line) > before.generation and _settled(line), 60, "the end of the repair")
    assert goes_on(line.settings, before.serving, state.serving)
    event = until(lambda: (found := _last(line)).Generation == state.generation and found, 30, "the event")
    assert event.Kind is Kind.REPAIRED
    assert event.DagRun.startswith(f"{DagId.PREDICTOR}/asset_triggered__"), "by the watch's alarm"
    assert "Spark Connect server" in event.Reason
    assert 0 < event.Seconds < 300
    assert run_dag(line, DagId.HEALTH)["run"] == "success"


def test_without_the_triggerer_the_health_check_repairs(line: Stack) -> None:
    before = until(lambda: _settled(line), 60, "a settled state")
    line.supervisor.stop_service("airflow-triggerer")
    try:
        engine.stop_session(line.settings, before.serving.session_id)
        states = run_dag(line, DagId.HEALTH)
        assert (states["query_is_active"], states["send_canaries"]) == ("success", "skipped"), "unhealthy is no failure"
        state = until(lambda: generation(line) > before.generation and _settled(line), 120, "the repair")
        assert goes_on(line.settings, before.serving, state.serving)
    finally:
        line.await_ready("airflow-triggerer")
    assert submit_flight(line.settings, 30)["prediction"]["Deployment"] == state.generation


def test_a_stop_through_airflow_lasts_and_make_up_says_so(line: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    before = until(lambda: _settled(line), 60, "a settled state")
    assert run_dag(line, DagId.PREDICTOR, {"action": "stop"})["run"] == "success"
    assert (_last(line).Kind, _last(line).DagRun[:30]) == (Kind.STOPPED, f"{DagId.PREDICTOR}/manual__"[:30])
    uuid = httpx.post(line.web_url + SUBMIT, json=_form()).json()["id"]
    assert run_dag(line, DagId.PREDICTOR)["run"] == "success", "reconcile leaves a stop alone"
    assert run_dag(line, DagId.HEALTH)["query_is_active"] == "skipped"
    with pytest.raises(StepFailedError, match="a person stopped the predictor") as refused:
        up(line.settings)
    assert refused.value.hint == "make predictor ACTION=start"
    assert answer(line, uuid, 1)["status"] == "WAIT"
    assert generation(line) == before.generation, "nobody started it"
    act(line.settings, "start")
    assert answer(line, uuid)["status"] == "OK", "what was asked meanwhile is answered"
    capsys.readouterr()
    console.status(line.settings)
    shown = capsys.readouterr().out
    assert "running, this query for" in shown
    assert "started" in shown


@pytest.mark.slow
def test_airflow_away_is_not_noticed_by_who_asks(line: Stack) -> None:
    """The short form; `make proof` leaves Airflow away for five minutes, under traffic."""
    before = until(lambda: _settled(line), 60, "a settled state")
    airflow = [name for name in line.supervisor.states() if name.startswith("airflow-")]
    for name in airflow:
        line.supervisor.stop_service(name)
    try:
        assert submit_flight(line.settings, 10)["prediction"]["Deployment"] == before.generation
    finally:
        for name in airflow:
            line.await_ready(name)
    assert run_dag(line, DagId.PREDICTOR)["run"] == "success"
    assert generation(line) == before.generation, "it found the running query"
    assert submit_flight(line.settings, 10)["prediction"]["Deployment"] == before.generation


def test_a_failed_run_says_why_and_is_no_loop(line: Stack) -> None:
    with pytest.raises(StepFailedError, match="task act of the DAG flight_delay_predictor failed"):
        act(line.settings, "deploy", "20260101T000000Z-00000000")
    with pytest.raises(StepFailedError, match=r"Airflow refuses explode: .*explode"):
        act(line.settings, "explode")
    assert (_last(line).Kind, _last(line).Version) == (Kind.FAILED, "20260101T000000Z-00000000")
    assert "is missing in" in _last(line).Reason
    assert submit_flight(line.settings, 10)["status"] == "OK", "what served serves on"


@contextmanager
def only_the_last_months(line: Stack, months: int) -> Iterator[None]:
    """The published records are so few, for a training that is soon over."""
    file = line.settings.records / "manifest.json"
    published = file.read_text()
    manifest = Manifest.model_validate_json(published)
    file.write_text(manifest.model_copy(update={"months": manifest.months[-months:]}).model_dump_json())
    try:
        yield
    finally:
        file.write_text(published)


def test_a_new_champion_replaces_the_query(line: Stack) -> None:
    old = registry.read_pointer(line.settings.models).champion
    with only_the_last_months(line, 2):
        states = run_dag(line, DagId.TRAINING, {"trees": 8, "depth": 6, "holdout_months": 1, "force": True})
    assert states["run"] == "success"
    pointer = registry.read_pointer(line.settings.models)
    assert pointer.previous == old
    assert pointer.champion != old

    def serves_new() -> bool:
        serving = read_state(mongo.connect(line.settings)).serving
        return serving is not None and serving.version == pointer.champion

    until(serves_new, 120, "the new model's deployment, triggered by its asset")
    state = until(lambda: _settled(line), 60, "the end of the old query")
    assert submit_flight(line.settings, 30)["prediction"]["ModelVersion"] == pointer.champion
    assert submit_flight(line.settings, 30)["prediction"]["Deployment"] == state.serving.generation
