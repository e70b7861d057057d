"""The whole line on real services, as `make up` leaves it."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from confluent_kafka import Consumer, Producer

from flight_delays import canary, predictor, registry, store
from flight_delays.contract import REQUEST_TOPIC, RESPONSE_TOPIC, Collection
from flight_delays.names import DagId
from flight_delays.settings import LOOPBACK, PROJECT
from stack import artifacts
from stack.airflow_api import ACTIVE, AirflowApi
from stack.services import spark_environment
from stack.up import submit_flight, up
from tests.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

PLACE = "/flights/delays/predict/classify_realtime"


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's first true value; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


def flight(**changes: Any) -> dict[str, Any]:
    """A valid request, as an old client would put it on the topic."""
    now = dt.datetime.now(dt.UTC).isoformat()
    return {"UUID": str(uuid4()), "Timestamp": now, **canary.FLIGHT, "DayOfWeek": 0} | changes


def put(line: Stack, *messages: bytes | None, key: str | None = None) -> None:
    """Straight onto the request topic."""
    options = {"compression.type": "zstd", "message.max.bytes": 4_000_000}
    producer = Producer({"bootstrap.servers": line.settings.kafka_bootstrap, **options})
    for message in messages:
        producer.produce(REQUEST_TOPIC, value=message, key=key)
    assert producer.flush(15) == 0


def answer(line: Stack, uuid: str, wait: float = 20) -> dict[str, Any]:
    return httpx.get(f"{line.web_url}{PLACE}/response/{uuid}", params={"wait": wait}, timeout=40).json()


def run_dag(line: Stack, dag_id: DagId, conf: dict[str, Any] | None = None, seconds: float = 240) -> dict[str, str]:
    """Triggers a DAG and returns its tasks' states once the run has ended; `run` is the run's own."""
    api = AirflowApi(line.settings, line.secrets)
    run_id = api.trigger(dag_id, conf)

    def ended() -> str | None:
        [run] = [run for run in api.runs(dag_id, 10) if run["dag_run_id"] == run_id]
        return None if run["state"] in ACTIVE else str(run["state"])

    state = until(ended, seconds, f"the end of {dag_id}")
    return {task["task_id"]: task["state"] for task in api.tasks(dag_id, run_id)} | {"run": state}


def generation(line: Stack) -> int:
    return predictor.read_state(store.connect(line.settings)).generation


def test_a_flight_from_the_form_is_predicted(line: Stack) -> None:
    form = {name: value for name, value in canary.FLIGHT.items() if name != "Distance"} | {"Carrier": "ua"}
    accepted = httpx.post(line.web_url + PLACE, data=form)
    assert accepted.status_code == 202
    uuid = accepted.json()["id"]
    assert accepted.headers["Location"] == f"{PLACE}/response/{uuid}"
    found = answer(line, uuid)
    assert found["status"] == "OK"
    prediction = found["prediction"]
    assert prediction["UUID"] == uuid
    assert prediction["Route"] == "EWR-SFO"
    assert prediction["Distance"] == 2565.0
    assert (prediction["DayOfYear"], prediction["DayOfMonth"], prediction["DayOfWeek"]) == (354, 20, 5)
    assert sum(prediction["Probability"]) == pytest.approx(1)
    assert prediction["Probability"][prediction["Prediction"]] == max(prediction["Probability"])
    assert prediction["ModelVersion"] == registry.read_pointer(line.settings.models).champion
    document = store.connect(line.settings)[Collection.RESPONSES].find_one({"_id": uuid})
    assert document is not None
    assert isinstance(document["PredictedAt"], dt.datetime)
    assert document["FlightDate"] == dt.datetime(2013, 12, 20, tzinfo=dt.UTC)


def test_the_originals_example_is_answered_with_a_remark(line: Stack) -> None:
    example = {"DepDelay": 5, "Carrier": "AA", "FlightDate": "2016-12-25", "Origin": "ATL", "Dest": "SFO"}
    accepted = httpx.post(line.web_url + PLACE, json={**example, "FlightNum": "1519"})
    found = answer(line, accepted.json()["id"])
    assert found["status"] == "OK"
    assert set(found["unseen"]) == {"Origin", "Route"}


POISON: dict[str, tuple[bytes | None, str, str | None]] = {
    "tombstone": (None, "empty", None),
    "empty value": (b"", "empty", None),
    "no JSON": (b"{", "malformed_json", None),
    "truncated UTF-8": (b'{"Carrier": "\xe2\x82', "invalid_utf8", None),
    "deep nesting": (b'{"a":' * 5000 + b"1" + b"}" * 5000, "malformed_json", None),
    "array": (b"[1]", "not_an_object", None),
    "null": (b"null", "not_an_object", None),
    "2 MB": (b'{"x": "' + b"a" * 2_000_000 + b'"}', "too_large", None),
    "repeated key": (b'{"Carrier": "AA", "Carrier": "UA"}', "malformed_json", None),
    "NaN": (json.dumps(flight(DepDelay=float("nan"))).encode(), "malformed_json", None),
    "NaN as text": (json.dumps(flight(DepDelay="NaN")).encode(), "wrong_type", "DepDelay"),
    "number as text": (json.dumps(flight(Distance="2565")).encode(), "wrong_type", "Distance"),
    "1e400": (json.dumps(flight(DepDelay=7)).replace("7,", "1e400,").encode(), "out_of_range", "DepDelay"),
    "no departure delay": (json.dumps(flight(DepDelay=None)).encode(), "missing_field", "DepDelay"),
    "year 10000": (json.dumps(flight(FlightDate="10000-01-01")).encode(), "invalid_format", "FlightDate"),
    "31 February": (json.dumps(flight(FlightDate="2016-02-31")).encode(), "invalid_format", "FlightDate"),
    "same airports": (json.dumps(flight(Dest="EWR")).encode(), "same_airport", "Dest"),
    "truth for a number": (json.dumps(flight(DepDelay=True)).encode(), "wrong_type", "DepDelay"),
    "flight number as number": (json.dumps(flight(FlightNum=1519)).encode(), "wrong_type", "FlightNum"),
    "operator": (json.dumps(flight(Carrier={"$ne": 1})).encode(), "wrong_type", "Carrier"),
}


def test_poison_becomes_dead_letters_and_the_stream_goes_on(line: Stack) -> None:
    keys = {name: str(uuid4()) for name in POISON}
    for name, (payload, _, _) in POISON.items():
        readable = payload is not None and b'"UUID"' in payload
        put(line, payload, key=None if readable else keys[name])
        if readable:
            keys[name] = payload.decode().split('"UUID": "')[1][:36]
    good = flight()
    put(line, json.dumps(good).encode())
    assert answer(line, good["UUID"])["status"] == "OK"
    database = store.connect(line.settings)
    for name, (payload, reason, field) in POISON.items():
        found = answer(line, keys[name])
        assert (found["status"], found.get("reason"), found.get("field")) == ("REJECTED", reason, field), name
        document = database[Collection.REJECTED].find_one({"UUID": keys[name]})
        assert document is not None
        assert document["_id"] == f"{REQUEST_TOPIC}-{document['partition']}-{document['offset']}"
        assert document["payload_bytes"] == len(payload or b"")


def test_a_second_message_with_the_same_uuid_changes_nothing(line: Stack) -> None:
    first = flight()
    put(line, json.dumps(first).encode(), key=first["UUID"])
    before = answer(line, first["UUID"])
    put(line, json.dumps(first | {"DepDelay": 200.0}).encode(), key=first["UUID"])
    after_it = flight()
    while canary.partition_of(after_it["UUID"], 2) != canary.partition_of(first["UUID"], 2):
        after_it["UUID"] = str(uuid4())
    put(line, json.dumps(after_it).encode(), key=after_it["UUID"])
    assert answer(line, after_it["UUID"])["status"] == "OK"
    assert answer(line, first["UUID"]) == before


def test_a_prediction_replaces_a_rejection_in_the_answer(line: Stack) -> None:
    message = flight()
    put(line, json.dumps(message | {"DepDelay": "5"}).encode())
    assert answer(line, message["UUID"])["status"] == "REJECTED"
    put(line, json.dumps(message).encode())
    until(lambda: answer(line, message["UUID"], 0)["status"] == "OK", 20, "the prediction")


def test_batch_and_stream_give_the_same_digits(line: Stack) -> None:
    origins, dests, carriers = ("EWR", "JFK", "LGA", "ATL"), ("SFO", "LAX", "ORD", "BQN"), ("UA", "AA", "9E", "ZZ")
    messages = [
        flight(
            Origin=origins[i % 4],
            Dest=dests[i // 4 % 4],
            Carrier=carriers[i // 16 % 4],
            DepDelay=(i * 37) % 200 - 30.5,
            FlightDate=f"20{13 + i % 4}-{1 + i % 12:02d}-{1 + i % 28:02d}",
        )
        for i in range(64)
    ]
    put(line, *(json.dumps(message).encode() for message in messages))
    streamed = {message["UUID"]: answer(line, message["UUID"])["prediction"] for message in messages}
    serving = predictor.read_state(store.connect(line.settings)).serving
    assert serving is not None
    code = f"""
import json, sys
from pathlib import Path
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
from flight_delays import registry
from spark_jobs import streaming_predictor as job
spark = SparkSession.builder.remote({line.settings.spark_connect_url + "/;user_id=test"!r}).getOrCreate()
job.configure(spark)
rows = [(None, bytearray(json.dumps(m).encode()), 0, i) for i, m in enumerate(json.load(sys.stdin))]
frame = spark.createDataFrame(rows, "key binary, value binary, partition int, offset long")
model = PipelineModel.load(str(registry.pipeline_path(Path({str(line.settings.models)!r}), {serving.version!r})))
answers = job.answers(frame, model, {serving.version!r}, {serving.generation}).collect()
print(json.dumps([json.loads(row.value) for row in answers]))
spark.stop()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(messages), capture_output=True, text=True, check=True
    )
    batch = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(batch) == len(messages)
    for row in batch:
        stream = streamed[row["UUID"]]
        for name in ("Probability", "Prediction", "Route", "DayOfYear", "DayOfMonth", "DayOfWeek", "Distance"):
            assert stream[name] == row[name], (row["UUID"], name)


def test_the_predictor_is_found_again_and_left_alone(line: Stack) -> None:
    before = generation(line)
    states = run_dag(line, DagId.PREDICTOR)
    assert states["run"] == states["reconcile"] == "success"
    assert generation(line) == before


def test_the_health_check_proves_predictions(line: Stack) -> None:
    states = run_dag(line, DagId.HEALTH)
    assert states == {
        "run": "success",
        "query_is_active": "success",
        "send_canaries": "success",
        "canaries_answered": "success",
        "canaries_stored": "success",
        "healthy": "success",
        "repair": "skipped",
    }
    assert store.connect(line.settings)[Collection.RESPONSES].find_one({"Canary": True}) is None


def test_distances_are_imported_twice_with_the_same_counts(line: Stack) -> None:
    collection = store.connect(line.settings)[Collection.DISTANCES]
    before = collection.count_documents({})
    assert before >= 4696
    assert run_dag(line, DagId.DISTANCES)["run"] == "success"
    assert collection.count_documents({}) == before


def test_maintenance_removes_nothing_that_is_in_use(line: Stack) -> None:
    uuid = submit_flight(line.settings, 30)["id"]
    before = registry.versions(line.settings.models)
    states = run_dag(line, DagId.MAINTENANCE)
    wanted = {"answers", "rejected", "events", "models", "checkpoints", "files", "logs", "airflow_database", "run"}
    assert states == dict.fromkeys(wanted, "success")
    assert answer(line, uuid)["status"] == "OK"
    assert registry.versions(line.settings.models) == before
    assert run_dag(line, DagId.MAINTENANCE, {"dry_run": True})["run"] == "success"
    predictor.check(line.settings)


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
    listening = {
        (process.name(), connection.laddr.ip)
        for process in [root, *root.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
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
    environment = os.environ | spark_environment() | line.settings.environment
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


def test_a_killed_engine_is_repaired_and_nothing_is_lost(line: Stack) -> None:
    before = generation(line)
    line.kill("spark-connect")
    accepted = [httpx.post(line.web_url + PLACE, json=_form()).json()["id"] for _ in range(10)]
    line.await_ready("spark-connect")
    states = run_dag(line, DagId.HEALTH)
    assert (states["run"], states["query_is_active"], states["repair"]) == ("failed", "failed", "success")
    for uuid in accepted:
        until(lambda uuid=uuid: answer(line, uuid)["status"] == "OK", 120, "an answer to what was accepted meanwhile")
    until(lambda: generation(line) > before, 60, "a new generation")
    state = until(
        lambda: (found := predictor.read_state(store.connect(line.settings))).candidate is None and found, 60, ""
    )
    assert state.serving.checkpoint.startswith("000001-"), "a repair goes on from the same checkpoint"
    assert run_dag(line, DagId.HEALTH)["run"] == "success"


def _settled(line: Stack) -> predictor.State | None:
    state = predictor.read_state(store.connect(line.settings))
    return None if state.candidate or state.retiring else state


def _form() -> dict[str, Any]:
    return {name: value for name, value in canary.FLIGHT.items() if name != "Distance"}


def test_a_new_champion_replaces_the_query(line: Stack) -> None:
    old = registry.read_pointer(line.settings.models).champion
    states = run_dag(line, DagId.TRAINING, {"trees": 3, "depth": 3, "seed": 7})
    assert states["run"] == "success"
    pointer = registry.read_pointer(line.settings.models)
    assert pointer.previous == old
    assert pointer.champion != old

    def serves_new() -> bool:
        serving = predictor.read_state(store.connect(line.settings)).serving
        return serving is not None and serving.version == pointer.champion

    until(serves_new, 120, "the new model's deployment, triggered by its asset")
    state = until(lambda: _settled(line), 60, "the end of the old query")
    assert submit_flight(line.settings, 30)["prediction"]["ModelVersion"] == pointer.champion
    assert submit_flight(line.settings, 30)["prediction"]["Deployment"] == state.serving.generation
