"""Errors of the real drivers, of servers that are not there, are one short sentence without a password."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from confluent_kafka.admin import AdminClient
from pymongo.errors import BulkWriteError, OperationFailure

from flight_delays.errors import ServiceError, sentence
from flight_delays.infra import mongo
from flight_delays.predictor import probe
from flight_delays.predictor.state import read_state
from flight_delays.predictor.status import read_status
from flight_delays.settings import PROJECT, Settings
from flight_delays_airflow.mongo import database

NOWHERE = "127.0.0.1:1"
URI = f"mongodb://me:p%40ss@{NOWHERE},127.0.0.1:2/?replicaSet=x&serverSelectionTimeoutMS=100"


@pytest.fixture
def away(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, mongo_uri=URI, kafka_bootstrap=NOWHERE)


def _mongo(settings: Settings) -> None:
    mongo.connect(settings, serverSelectionTimeoutMS=100).command("ping")


def _kafka(settings: Settings) -> None:
    AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0}).list_topics(timeout=0.1)


def _spark(_: Settings) -> None:
    with grpc.insecure_channel(NOWHERE) as channel:
        channel.unary_unary("/spark.connect.SparkConnectService/Config")(b"", timeout=1)


@pytest.mark.parametrize("ask", [_mongo, _kafka, _spark])
def test_a_server_that_is_away_is_one_sentence(ask: Callable[[Settings], None], away: Settings) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own
        ask(away)
    found = sentence(raised.value)
    assert 0 < len(found) < 200
    assert [part for part in ("Topology", "timeouts", "KafkaError", "\n", "p@ss", "p%40ss") if part in found] == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BulkWriteError({"writeErrors": [{"errmsg": "too large", "op": {"secret": 1}}]}), "too large"),
        (OperationFailure("no room", 5, {"secret": 1}), "no room"),
        (ValueError("http://me:pass@127.0.0.1:9001/RPC2 refuses\nand more"), "http://127.0.0.1:9001/RPC2 refuses"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_error_itself_stays(error: Exception, expected: str) -> None:
    assert sentence(error) == expected


def test_no_event_status_or_task_shows_what_the_driver_knows_of_its_servers(
    away: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = probe.probe(away)
    assert found is not None
    said = [found.reason, *read_status(away).problems]
    options = "replicaSet=x&serverSelectionTimeoutMS=100"
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_DEFAULT", f"mongo://me:p%40ss@127.0.0.1:1/?{options}")
    with pytest.raises(ServiceError) as raised, database() as db:
        read_state(db)
    assert raised.value.__suppress_context__, "a task's log would show the driver's own error"
    said.append(str(raised.value))
    for text in said:
        assert "Topology" not in text
        assert "p%40ss" not in text
        assert len(text) < 400, text


@pytest.mark.parametrize("command", ["predictions", "topics"])
def test_a_command_says_what_is_away(command: str, away: Settings) -> None:
    variables = {"MONGO_URI": URI, "FLIGHTS_KAFKA_BOOTSTRAP": NOWHERE, **away.environment}
    done = subprocess.run(
        [sys.executable, "-m", "stack", command],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env=os.environ | variables,
    )
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if not line.startswith("%")]  # librdkafka's own log
    assert "What to do: make status" in last
    assert not any("Traceback" in line or "Topology" in line or "p%40ss" in line for line in last)
