"""The embedded stack's own logic: ports, secrets, steps, the process manager's configuration."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from flight_delays.settings import LOOPBACK, PROJECT, Settings
from stack import bootstrap, state
from stack.__main__ import _months
from stack.secrets import Secrets, load_secrets
from stack.services import Service, services
from stack.steps import Step, StepFailedError, explain, step
from stack.supervisor import Supervisor
from stack.up import check_ports, running_already
from tests.conftest import settings_in


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, 5_000)  # below the ports of outgoing connections


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
    ours, others = ({*asdict(each).values()} for each in (first, Secrets()))
    assert len(ours) == len(asdict(first)), "each differs from the others"
    assert not ours & others


def test_secrets_that_are_missing_are_not_replaced_without_being_asked(settings: Settings) -> None:
    path = settings.home / "secrets.json"
    first = load_secrets(settings)
    path.unlink()
    state.migrate(settings)
    with pytest.raises(StepFailedError, match=r"secrets\.json .* is missing") as caught:
        load_secrets(settings)
    assert not path.exists()
    assert "backup" in caught.value.hint
    path.write_text("{}")  # as the hint says
    assert load_secrets(settings) != first
    assert load_secrets(settings) == load_secrets(settings)
    for damaged in ("", "[]", '{"airflow_password": null}'):
        path.write_text(damaged)
        with pytest.raises(StepFailedError, match="damaged"):
            load_secrets(settings)


def test_a_home_of_an_older_release_gets_what_it_lacks(settings: Settings) -> None:
    old = {"airflow_password": "a", "airflow_secret_key": "b", "airflow_jwt_secret": "c", "airflow_fernet_key": "d"}
    (settings.home / "secrets.json").write_text(json.dumps(old | {"supervisor_password": "e"}))
    state.migrate(settings)
    assert load_secrets(settings).airflow_password == old["airflow_password"]
    assert settings.spark_connect_token == load_secrets(settings).spark_connect_token


def make(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`make` with the settings of a person who knows the home alone."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FLIGHTS_")}
    command = [sys.executable, "-m", "stack", *arguments]
    environment = ours | more | {"FLIGHTS_HOME": str(home)}
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


def test_a_home_that_others_can_read_is_made_private_and_that_is_said(settings: Settings) -> None:
    load_secrets(settings)
    paths = [settings.home, settings.home / "secrets.json"]
    paths[0].chmod(0o755)
    paths[1].chmod(0o644)
    done = make(settings.home, "models")
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o700, 0o600]
    assert [line.split(" (")[0] for line in done.stderr.splitlines()] == [f"Other users could read {p}" for p in paths]
    assert make(settings.home, "models").stderr == ""
    settings.home.chmod(0o1777)
    assert "FLIGHTS_HOME" in make(settings.home, "models").stderr
    assert settings.home.stat().st_mode & 0o7777 == 0o1777


@pytest.fixture
def sleeper(settings: Settings) -> Iterator[Supervisor]:
    """A process manager with one service, which sleeps, and writes a file first."""
    load_secrets(settings)
    state.migrate(settings)
    supervisor = Supervisor(settings)
    command = ["sh", "-c", f"touch {settings.home}/made; exec sleep 600"]
    supervisor.start([Service("sleeper", command, lambda _: None)])
    state.remember_start(settings)
    yield supervisor
    if supervisor.running():
        supervisor.stop()


def test_commands_find_the_stack_by_its_home_and_tell_strangers_nothing(
    settings: Settings, sleeper: Supervisor
) -> None:
    process = sleeper.process()
    assert process is not None
    with socket.socket() as stranger:  # it has the port that a command without the offset has in mind
        stranger.bind((LOOPBACK, 0))
        stranger.listen()
        stranger.settimeout(0.2)
        port = stranger.getsockname()[1]
        os.environ["FLIGHTS_PORT_SUPERVISOR"] = str(port)
        try:
            assert Supervisor(Settings(home=settings.home)).states()["sleeper"]["statename"] in ("STARTING", "RUNNING")
            assert not Supervisor(Settings(home=settings.home / "other")).running()
        finally:
            del os.environ["FLIGHTS_PORT_SUPERVISOR"]
        with pytest.raises(TimeoutError):
            stranger.accept()
    refused = make(settings.home, "status").stderr
    assert "the running stack was started with other code or settings and has no " in " ".join(refused.split())
    assert "make down up" in refused
    asked = make(settings.home, "topics")
    assert f":{settings.port_kafka}" in asked.stderr, "it asks Kafka at the port of the stack that runs"
    (settings.home / "secrets.json").unlink()
    done = make(settings.home, "down")
    assert done.returncode == 0, done.stderr
    assert "secrets.json" in done.stdout
    assert not process.is_running()


@pytest.fixture
def log_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the folder for temporary files, named as supervisord names logs by default."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    path = folder / "web-stdout---supervisor-x1y2z3.log"
    path.touch()
    return path


@pytest.mark.usefixtures("log_of_another", "sleeper")
def test_the_logs_of_another_process_manager_stay(log_of_another: Path) -> None:
    assert log_of_another.exists()


def test_a_password_is_not_sent_where_the_stack_does_not_run(settings: Settings) -> None:
    load_secrets(settings)
    with socket.create_server((LOOPBACK, settings.port_airflow)) as stranger:
        stranger.settimeout(0.2)
        done = make(settings.home, "predictor", "start", **settings.environment)
        assert "make up" in done.stderr
        with pytest.raises(TimeoutError):
            stranger.accept()


def test_what_services_write_is_their_owners(settings: Settings, sleeper: Supervisor) -> None:
    deadline = time.monotonic() + 30
    while not (settings.home / "made").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for name in ("made", "logs/sleeper.log", "run/supervisord.log"):
        assert (settings.home / name).stat().st_mode & 0o077 == 0, name


def test_no_secret_is_in_what_the_process_manager_may_show(settings: Settings) -> None:
    """Of a bad line in its configuration it prints the value, and its own password is another one at each start."""
    secrets = load_secrets(settings)
    shown = Supervisor(settings)._configuration(services(settings, secrets))
    assert not [name for name, secret in asdict(secrets).items() if secret in shown]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mongo", {"mongo_uri": "mongodb://me:secret@db.example:27018/?authSource=admin"}),
        ("kafka", {"kafka_bootstrap": "kafka.example:9092"}),
        ("spark-connect", {"spark_connect_url": "sc://spark.example:15002"}),
    ],
)
def test_a_service_of_ones_own_replaces_the_embedded_one(name: str, own: dict[str, str], tmp_path: Path) -> None:
    embedded, ours = (
        [each.name for each in services(Settings(home=tmp_path, **more), Secrets())] for more in ({}, own)
    )
    assert [each for each in embedded if each not in ours] == [name]


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


def test_steps_and_help_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(f"word{n}" for n in range(40))
    with step("airflow-execution-api") as current:
        current.say(text)
        current.result = text
    shown = capsys.readouterr().out
    assert " ".join(shown.split()).count(text) == 2
    done = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert max(map(len, [*shown.splitlines(), *done.stdout.splitlines()])) <= 80


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


@pytest.mark.parametrize("months", ["2013-10..2013-12", "2013-01..2013-12"])
def test_the_first_model_may_learn_from_a_single_month(months: str) -> None:
    assert _months(months) == months


@pytest.mark.parametrize("months", ["2013-11..2013-12", "2013-12", "2013-09..2014-03", "2014-01..2014-12", "2013", ""])
def test_months_that_no_model_can_learn_from_are_refused_before_anything_starts(tmp_path: Path, months: str) -> None:
    command = [sys.executable, "-m", "stack", "up", "--months", months]
    environment = {**os.environ, "FLIGHTS_HOME": str(tmp_path / "var")}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert months in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "var").exists()
