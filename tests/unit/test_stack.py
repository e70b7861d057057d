"""The embedded stack's own logic: ports, secrets, steps, the process manager's configuration."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from flight_delays.settings import LOOPBACK, Settings
from stack import bootstrap, state
from stack.secrets import Secrets, load_secrets
from stack.services import airflow_environment, services
from stack.steps import Step, StepFailedError, explain, step
from stack.up import check_ports, running_already


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, port_offset=5_000)  # below the ports of outgoing connections


def test_an_offset_moves_every_port(tmp_path: Path) -> None:
    plain, moved = Settings(home=tmp_path, port_offset=0), Settings(home=tmp_path, port_offset=500)
    ports = [name for name in Settings.model_fields if name.startswith("port_") and name != "port_offset"]
    assert len(ports) >= 8
    for name in ports:
        assert getattr(moved, name) == getattr(plain, name) + 500
    assert str(moved.port_kafka) in moved.kafka_bootstrap
    assert str(moved.port_mongo) in moved.mongo_uri
    assert str(moved.port_spark_connect) in moved.spark_connect_url


def test_a_taken_port_is_named_with_the_setting_that_moves_it(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, settings.port_web))
        taken.listen()
        with pytest.raises(StepFailedError, match=rf"{settings.port_web} \(Web app\)") as caught:
            check_ports(settings, services(settings, Secrets()))
    assert "FLIGHTS_PORT_WEB" in caught.value.hint
    assert "FLIGHTS_PORT_OFFSET" in caught.value.hint
    check_ports(settings, services(settings, Secrets()))


def test_a_running_stack_of_other_code_is_noticed(settings: Settings) -> None:
    wanted = services(settings, Secrets())
    everyone = {service.name for service in wanted}
    (settings.home / "run").mkdir()
    state.remember_start(settings)
    assert running_already(settings, everyone, wanted) == "runs already"
    (settings.home / "run" / "started.json").unlink()
    assert running_already(settings, everyone, wanted) == "runs with older code: make down up"
    with pytest.raises(StepFailedError, match="has no web") as caught:
        running_already(settings, everyone - {"web"}, wanted)
    assert caught.value.hint == "make down up"


def test_secrets_are_made_once_and_private(settings: Settings) -> None:
    first = load_secrets(settings)
    assert load_secrets(settings) == first
    assert (settings.home / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert Secrets() != first
    values = json.loads((settings.home / "secrets.json").read_text()).values()
    assert len(set(values)) == len(list(values))


def test_airflow_gets_the_stacks_own_addresses(settings: Settings) -> None:
    environment = airflow_environment(settings, Secrets())
    kafka = json.loads(environment["AIRFLOW_CONN_KAFKA_DEFAULT"])
    assert kafka["extra"]["bootstrap.servers"] == settings.kafka_bootstrap


def test_a_mongodb_of_ones_own_replaces_the_embedded_one(tmp_path: Path) -> None:
    own = Settings(home=tmp_path, mongo_uri="mongodb://me:secret@db.example:27018/?authSource=admin")
    assert "mongo" not in [service.name for service in services(own, Secrets())]
    assert "mongo" in [service.name for service in services(Settings(home=tmp_path), Secrets())]


def test_a_failed_step_shows_its_log_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "service.log"
    log.write_text("\n".join(f"line {i}" for i in range(100)))
    with pytest.raises(StepFailedError) as caught, step("Kafka", log=log, hint="make logs"):
        raise OSError("no disk")
    text = explain(caught.value)
    assert "no disk" in text
    assert "line 99" in text
    assert "line 10\n" not in text
    assert "make logs" in text
    assert "✗ Kafka" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("java", "accepted"), [('openjdk version "17.0.15" 2025-04-15', True), ('java version "1.8.0_402"', False)]
)
def test_only_a_fitting_jdk_is_taken(
    java: str, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("java", "javac"):
        path = tmp_path / "bin" / tool
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{java}' >&2\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if accepted:
        assert bootstrap.find_jdk(Step("JDK")) == "JDK 17"
    else:
        with pytest.raises(StepFailedError, match="17 or 21") as caught:
            bootstrap.find_jdk(Step("JDK"))
        assert "install one" in caught.value.hint
