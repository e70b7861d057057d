"""A checkout with nothing but the tracked files, and its containers, started as docs/containers.md says."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from flight_delays.settings import PROJECT
from tests.conftest import NO_ENGINE
from tests.containers import bases
from tests.containers.engine import ForbiddenError, NoEngineError, engine, run

FOLDER = Path(os.environ.get("CONTAINERS_FOLDER", "~/.cache/flight-delays-containers")).expanduser()
"""Where an engine of the tests' own keeps images and volumes: 15 GB, not itself in a container's layers."""
NAME = "flight-delays-test"
MONTHS = "2013-07..2013-12"
START_SECONDS = 900
WITHOUT_LOGIN = "mongodb://mongo:27017/agile_data_science"


@dataclass
class Containers:
    """The running containers; `checkout` is where their commands are run."""

    checkout: Path
    ports: dict[str, int]
    report: dict[str, str] = field(default_factory=dict)

    def shell(self, command: str, timeout: float = 300, check: bool = True) -> str:
        """The output of a command of the documentation, as it stands there."""
        return run("bash", "-c", command, cwd=self.checkout, timeout=timeout, check=check)

    def compose(self, *words: str, timeout: float = 300) -> str:
        return run("docker", "compose", *words, cwd=self.checkout, timeout=timeout)

    def inspect(self) -> list[dict[str, Any]]:
        """What the engine says of each container."""
        ids = run("docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={NAME}").split()
        return list(json.loads(run("docker", "inspect", *ids)))

    def running(self) -> list[dict[str, Any]]:
        return [each for each in self.inspect() if each["State"]["Running"]]

    def up(self, *options: str) -> float:
        """The one command, in the foreground as a person runs it; returns its seconds until a model serves."""
        log = self.checkout.parent / "up.log"
        begin = time.monotonic()
        command = ["docker", "compose", *options, "up"]
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=self.checkout, stdout=output, stderr=output)
        deadline = begin + START_SECONDS
        while not re.search(r"airflow-start-1\s+exited with code|airflow-start-1 exited", log.read_text()):
            tail = log.read_text()[-6000:]
            assert process.poll() is None, f"docker compose up ended: {tail}"
            assert time.monotonic() < deadline, f"no model serves after {START_SECONDS} s: {tail}"
            time.sleep(1)
        assert "exited with code 0" in re.findall(r".*airflow-start-1.*exited.*", log.read_text())[-1], log.read_text()[
            -6000:
        ]
        seconds = time.monotonic() - begin
        self.started = log.read_text()
        process.kill()  # as a terminal that is closed: the containers run on
        process.wait()
        return seconds

    def remove(self) -> None:
        run("docker", "compose", "down", "--volumes", "--timeout", "5", cwd=self.checkout, check=False)

    started: str = ""


@pytest.fixture(scope="session")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Runs for the whole session; ends with a report of what was measured."""
    try:
        with engine(FOLDER):
            stand_ins = bases.provide()
            found = _checkout(tmp_path_factory.mktemp("containers") / "checkout", stand_ins)
            begin = time.monotonic()
            _build(found.checkout)
            found.report["build of the image"] = f"{time.monotonic() - begin:.0f} s"
            found.report["stand-ins"] = ", ".join(sorted(stand_ins)) or "none"
            found.remove()  # of a run that was cut off
            try:
                found.report["first up"] = f"{found.up():.0f} s"
                yield found
            finally:
                (FOLDER / "last.log").write_text(
                    run("docker", "compose", "logs", "--no-color", cwd=found.checkout, check=False)
                )
                found.remove()
                sys.stdout.write("".join(f"\n{name}: {value}" for name, value in found.report.items()) + "\n")
    except ForbiddenError as error:
        pytest.skip(f"{NO_ENGINE}: {error}")
    except NoEngineError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


def _checkout(folder: Path, stand_ins: set[str]) -> Containers:
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=PROJECT).splitlines():
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    names = ("FLIGHTS_PORT_WEB", "FLIGHTS_PORT_AIRFLOW", "FLIGHTS_PORT_SPARK_UI", "FLIGHTS_PORT_SPARK_QUERY")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    override = folder.parent / "here.yaml"
    override.write_text(_override(folder / "docker-compose.yaml", stand_ins))
    os.environ |= {name: str(port) for name, port in ports.items()}
    os.environ |= {"COMPOSE_PROJECT_NAME": NAME, "COMPOSE_FILE": f"docker-compose.yaml:{override}", "MONTHS": MONTHS}
    return Containers(folder, ports)


def _override(file: Path, stand_ins: set[str]) -> str:
    """What differs here from the official way: an old engine's health checks, and a MongoDB that knows no login."""
    services = bases.services(file)
    old = int(run("docker", "version", "--format", "{{.Server.Version}}").split(".", 1)[0]) < 25
    no_login = any(image.startswith("mongo:") for image in stand_ins)
    override: dict[str, dict[str, Any]] = {name: {} for name in services}
    for name, service in services.items():
        if old and "healthcheck" in service:
            override[name]["healthcheck"] = {"start_interval": None, "interval": "10s"}
        if no_login and service["image"] == "flight-delays:local" and "environment" in service:
            override[name]["environment"] = {"MONGO_URI": WITHOUT_LOGIN}
    return yaml.safe_dump({"services": override}).replace("start_interval: null", "start_interval: !reset null")


def _build(checkout: Path) -> None:
    command = ["docker", "build", "--network=host", "--tag=flight-delays:local", "--file=docker/Dockerfile", "."]
    run(*command, cwd=checkout, timeout=1800)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
