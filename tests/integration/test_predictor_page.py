"""The page Predictor in Airflow: who sees it, and who may press its buttons."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flight_delays.contract import DagId
from flight_delays.settings import LOOPBACK
from stack.airflow_api import AirflowApi
from stack.services import BIN, airflow_environment, inherited_environment
from tests.conftest import Stack
from tests.integration.line import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

PASSWORDS = {"admin": "for-the-admin", "watcher": "for-the-watcher"}
RUNS = f"/api/v2/dags/{DagId.PREDICTOR}/dagRuns"


@pytest.fixture(scope="module")
def airflow(line: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second API server on the line's database, which also knows a viewer; gives its address."""
    folder = tmp_path_factory.mktemp("airflow")
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    (folder / "passwords.json").write_text(json.dumps(PASSWORDS))
    environment = inherited_environment() | airflow_environment(line.settings, line.secrets) | line.settings.environment
    environment |= {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,watcher:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__API__BASE_URL": f"http://{LOOPBACK}:{port}",
    }
    command = [str(BIN / "airflow"), "api-server", "--apps", "core", "--host", LOOPBACK, "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--workers", "1"], env=environment, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or _answers(port), 90, "the API server")
        assert process.poll() is None, Path(folder / "log").read_text()[-3000:]
        yield f"http://{LOOPBACK}:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://{LOOPBACK}:{port}/api/v2/version").is_success
    except httpx.TransportError:
        return False


@contextmanager
def login(airflow: str, user: str) -> Iterator[httpx.Client]:
    """A browser's session: the login is a cookie."""
    with httpx.Client(base_url=airflow, timeout=30) as client:
        token = client.post("/auth/token", json={"username": user, "password": PASSWORDS[user]}).json()["access_token"]
        client.cookies.set("_token", token)
        yield client


def runs(line: Stack) -> set[str]:
    return {run["dag_run_id"] for run in AirflowApi(line.settings, line.secrets).runs(DagId.PREDICTOR, 100)}


def press(client: httpx.Client, action: str) -> httpx.Response:
    return client.post(RUNS, json={"logical_date": None, "conf": {"action": action}})


def test_nobody_without_a_login_sees_or_does_anything(line: Stack, airflow: str) -> None:
    before = runs(line)
    with httpx.Client(base_url=airflow) as nobody:
        for path in ("/predictor/", "/predictor/status", "/predictor/docs", "/predictor/openapi.json"):
            refused = nobody.get(path)
            assert refused.status_code in (401, 404), path
            assert "champion" not in refused.text
        assert press(nobody, "stop").status_code == 401
        nobody.cookies.set("_token", "made.up.token")
        assert nobody.get("/predictor/").status_code == 403
        assert press(nobody, "stop").status_code == 403
    time.sleep(1)
    assert runs(line) <= before | {run for run in runs(line) if not run.startswith("manual")}


def test_a_viewer_looks_but_cannot_act(line: Stack, airflow: str) -> None:
    before = runs(line)
    with login(airflow, "watcher") as viewer:
        page = viewer.get("/predictor/")
        assert page.status_code == 200
        assert "may not trigger" in page.text
        assert page.text.count(" disabled>") == 6, "four buttons, the versions and Deploy"
        assert viewer.get("/predictor/status").json()["condition"] == "running"
        assert press(viewer, "stop").status_code == 403
    assert not {run for run in runs(line) - before if run.startswith("manual")}


def test_an_admin_sees_the_page_in_the_navigation_and_acts(line: Stack, airflow: str) -> None:
    with login(airflow, "admin") as admin:
        plugins = admin.get("/api/v2/plugins").json()["plugins"]
        views: list[Any] = [view for plugin in plugins for view in plugin["external_views"]]
        assert ("Predictor", "nav", "predictor") in {(v["name"], v["destination"], v["url_route"]) for v in views}
        page = admin.get("/predictor/")
        assert " disabled>" not in page.text
        status = admin.get("/predictor/status").json()
        assert status["version"] in page.text
        assert status["events"][-1]["Kind"] == "started"
        pressed = press(admin, "reconcile")
        assert pressed.status_code == 200
        run = pressed.json()["dag_run_id"]
        refused = press(admin, "explode")
        assert refused.status_code == 400, "the DAG's parameters are checked"
        assert "explode" in refused.text

        def state() -> Any:
            found = admin.get(f"{RUNS}/{run}").json()
            return found["state"] if found["state"] in ("success", "failed") else None

        assert until(state, 120, "the run's end") == "success"
        link = admin.get(f"{RUNS}/{run}/taskInstances/act/links").json()["extra_links"]
        assert link == {"Spark UI, streaming query": line.settings.spark_ui_url + "/StreamingQuery/"}
