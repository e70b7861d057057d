"""The whole pipeline in containers, as a person starts it: predicts, repairs itself, keeps its state and its secrets.

In the order of this file: a later test works with what an earlier one left.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flight_delays.contract import SUBMIT_PATH
from flight_delays.predictor.workload import CANARY
from flight_delays.settings import PROJECT
from tests.containers import bases
from tests.containers.conftest import Containers
from tests.containers.engine import run

ONCE = {"secrets", "airflow-init", "airflow-start"}
LONG_RUNNING = sorted(bases.services().keys() - ONCE)
FLIGHT = {name: str(value) for name, value in CANARY.items() if name != "Distance"}
COMMANDS = [
    command
    for page in ("README.md", "docs/containers.md")
    for command in re.findall(
        r"(?:`|^    |^\$ )((?:MONTHS=\S+ )?docker compose [^`\n#]*[^`\n# ])", (PROJECT / page).read_text(), re.M
    )
]
STARTS_OR_ENDS = re.compile(r"docker compose( -f \S+)* (up|down)\b")
SECRETS = (
    "airflow_password",
    "airflow_fernet_key",
    "airflow_secret_key",
    "airflow_jwt_secret",
    "airflow_database",
    "mongo_uri",
)


def web(containers: Containers) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{containers.ports['FLIGHTS_PORT_WEB']}", timeout=40)


def predicted(client: httpx.Client, seconds: float = 120) -> dict[str, Any]:
    """A flight's answer; one that cannot be submitted yet is tried again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            uuid = client.post(SUBMIT_PATH, data=FLIGHT).raise_for_status().json()["id"]
            return answer(client, uuid, deadline)
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def answer(client: httpx.Client, uuid: str, deadline: float) -> dict[str, Any]:
    while True:
        found = client.get(f"{SUBMIT_PATH}/response/{uuid}", params={"wait": "20"}).raise_for_status().json()
        if found["status"] != "WAIT":
            return dict(found)
        assert time.monotonic() < deadline, f"{uuid} is not answered"


def test_a_flight_is_predicted_through_nginx(containers: Containers) -> None:
    with web(containers) as client:
        found = predicted(client)
        assert found["status"] == "OK"
        assert found["prediction"]["ModelVersion"]
        assert client.get("/flights/delays/predict_kafka").status_code == 200
    airflow = httpx.get(f"http://127.0.0.1:{containers.ports['FLIGHTS_PORT_AIRFLOW']}/api/v2/monitor/health")
    assert airflow.json()["scheduler"]["status"] == "healthy"


def test_the_log_ends_with_the_way_to_the_password(containers: Containers) -> None:
    lines = [
        line.partition("|")[2].strip() for line in containers.started.splitlines() if line.startswith("airflow-start-1")
    ]
    said = [line for line in lines if line][-1]
    command = re.fullmatch(r"Password\s+(docker compose .+)", said)
    assert command, said
    login = {"username": "admin", "password": containers.shell(command[1])}
    port = containers.ports["FLIGHTS_PORT_AIRFLOW"]
    assert httpx.post(f"http://127.0.0.1:{port}/auth/token", json=login).status_code == 201


def test_query_and_training_run_on_the_three_workers(containers: Containers) -> None:
    master = httpx.get(f"http://127.0.0.1:{containers.ports['FLIGHTS_PORT_SPARK_UI']}/json/").json()
    assert [worker["state"] for worker in master["workers"]] == ["ALIVE"] * 3
    assert [app["name"] for app in master["activeapps"]] == ["flight-delay-predictor"]
    assert "flight-delays-training" in [app["name"] for app in master["completedapps"]]
    assert (
        httpx.get(f"http://127.0.0.1:{containers.ports['FLIGHTS_PORT_SPARK_QUERY']}/StreamingQuery/").status_code == 200
    )


def test_no_secret_can_be_inspected(containers: Containers) -> None:
    shown = run("docker", "inspect", *(each["Id"] for each in containers.inspect()))
    shown += run("docker", "history", "--no-trunc", "flight-delays:local") + run(
        "docker", "inspect", "flight-delays:local"
    )
    for name in SECRETS:
        secret = containers.compose("exec", "--no-TTY", "airflow-apiserver", "cat", f"/run/secrets/{name}")
        password = re.search(r"://\w+:([^@]+)@", secret)
        value = password[1] if password else secret
        assert len(value) >= 16
        assert value not in shown, name
    for name in ("postgres_password", "mongo_root_password"):  # nor by who has no use for it
        assert "Permission denied" in containers.shell(
            f"docker compose exec -T web cat /run/secrets/{name} 2>&1", check=False
        )


def test_only_loopback_is_published(containers: Containers) -> None:
    published = {
        _service(each): bindings
        for each in containers.running()
        if (bindings := [one for many in each["NetworkSettings"]["Ports"].values() for one in many or []])
    }
    assert published.keys() == {"nginx", "spark-master", "spark-connect"}
    assert {one["HostIp"] for bindings in published.values() for one in bindings} == {"127.0.0.1"}


def test_nothing_runs_as_root_or_can_become_it(containers: Containers) -> None:
    for each in containers.running():
        name = each["Name"]
        users = {line.split()[0] for line in run("docker", "top", each["Id"], "-eo", "uid,pid").splitlines()[1:]}
        assert users, name
        assert "0" not in users, name
        host = each["HostConfig"]
        assert (host["CapDrop"], host["Privileged"]) == (["ALL"], False), name
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]), name


def test_memory_stays_below_the_limits(containers: Containers) -> None:
    used = run("docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.MemPerc}}").splitlines()
    containers.report["memory"] = "\n  ".join(["", *sorted(used)])
    assert all(float(line.split()[-1].rstrip("%")) < 95 for line in used), used
    assert not [each["Name"] for each in containers.inspect() if each["State"]["OOMKilled"] or each["RestartCount"]]


@pytest.mark.parametrize(
    "command", [command for command in dict.fromkeys(COMMANDS) if not STARTS_OR_ENDS.search(command)]
)
def test_the_documented_commands_work(containers: Containers, command: str) -> None:
    if re.search(r"listen|--follow", command):  # these end when a person ends them
        assert _first_output(containers.checkout, command, lambda: predicted(web(containers)))
    else:
        containers.shell(command)


def _first_output(folder: Path, command: str, cause: Callable[[], object]) -> bytes:
    process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=folder, stdout=subprocess.PIPE)
    try:
        time.sleep(10)  # until it listens
        cause()
        timer = threading.Timer(60, process.kill)
        timer.start()
        line = process.stdout.readline() if process.stdout else b""
        timer.cancel()
        return line
    finally:
        process.kill()
        process.wait()


class Traffic(threading.Thread):
    """Submits flights without a pause; remembers which were accepted."""

    def __init__(self, containers: Containers) -> None:
        super().__init__(daemon=True)
        self._client = web(containers)
        self.accepted: list[str] = []
        self.refused = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.3):
            try:
                response = self._client.post(SUBMIT_PATH, data=FLIGHT, timeout=10)
            except httpx.HTTPError:
                self.refused += 1
                continue
            if response.status_code == 202:
                self.accepted.append(response.json()["id"])
            else:
                self.refused += 1


def test_what_is_killed_under_traffic_is_repaired_and_nothing_accepted_is_lost(containers: Containers) -> None:
    traffic = Traffic(containers)
    traffic.start()
    rows = []
    try:
        for service in LONG_RUNNING:
            refused, begin = traffic.refused, time.monotonic()
            _kill(containers, service)
            with web(containers) as client:
                assert predicted(client, 300)["status"] == "OK"
            answers = time.monotonic() - begin
            _await_health(containers, service)
            healthy = time.monotonic() - begin
            lost = traffic.refused - refused
            rows.append(f"{service}: answers after {answers:.0f} s, healthy after {healthy:.0f} s, {lost} refused")
    finally:
        traffic.ended.set()
        traffic.join(30)
        containers.report["kills"] = "\n  ".join(
            ["", *rows, f"{len(traffic.accepted)} accepted, {traffic.refused} refused"]
        )
    with web(containers) as client:
        deadline = time.monotonic() + 180
        assert {answer(client, uuid, deadline)["status"] for uuid in traffic.accepted} == {"OK"}
    assert len(traffic.accepted) > 10 * len(LONG_RUNNING)
    master = httpx.get(f"http://127.0.0.1:{containers.ports['FLIGHTS_PORT_SPARK_UI']}/json/").json()
    alive = [worker["coresused"] for worker in master["workers"] if worker["state"] == "ALIVE"]
    assert (len(alive), sum(alive)) == (3, 6), "the query has all its task slots again"


def _kill(containers: Containers, service: str) -> None:
    """Ends the main process of the service's first container, from inside: to the engine, `docker kill` is a stop."""
    [before] = containers.compose("ps", "--quiet", service).split()[:1]
    started = run("docker", "inspect", "--format", "{{.State.StartedAt}}", before)
    run("docker", "exec", before, "bash", "-c", "kill -9 $(cat /proc/1/task/1/children)", check=False)
    deadline = time.monotonic() + 60
    while run("docker", "inspect", "--format", "{{.State.StartedAt}}", before) == started:
        assert time.monotonic() < deadline, f"{service} was not started again"
        time.sleep(0.2)


def _await_health(containers: Containers, service: str) -> None:
    deadline = time.monotonic() + 300
    while True:
        ids = containers.compose("ps", "--quiet", service).split()
        states = run("docker", "inspect", "--format", "{{.State.Health.Status}}", *ids).split()
        if set(states) == {"healthy"}:
            return
        assert time.monotonic() < deadline, f"{service} is {states}"
        time.sleep(1)


def test_state_outlasts_down_and_up(containers: Containers) -> None:
    with web(containers) as client:
        before = predicted(client)["prediction"]
        volumes = set(run("docker", "volume", "ls", "--quiet").split())
        containers.compose("down", timeout=180)
        containers.report["second up"] = f"{containers.up():.0f} s"
        assert set(run("docker", "volume", "ls", "--quiet").split()) == volumes  # none without a name is left behind
        kept = answer(client, before["UUID"], time.monotonic() + 60)["prediction"]
        assert kept == before
        assert predicted(client)["prediction"]["ModelVersion"] == before["ModelVersion"]


def test_a_small_machine_does_without_a_cluster(containers: Containers) -> None:
    containers.compose("down", timeout=180)
    file, here = os.environ["COMPOSE_FILE"].split(":")
    seconds = containers.up("-f", file, "-f", "docker-compose.small.yaml", "-f", here)
    containers.report["up without a cluster"] = f"{seconds:.0f} s"
    assert not {"spark-master", "spark-worker"} & {_service(each) for each in containers.running()}
    with web(containers) as client:
        assert predicted(client)["status"] == "OK"


def _service(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])
