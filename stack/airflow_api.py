"""The little of Airflow's REST API that `make up` and `make status` need."""

from __future__ import annotations

from typing import Any

import httpx

from flight_delays.settings import LOOPBACK, Settings
from stack.secrets import Secrets

ACTIVE = frozenset({"queued", "running"})


class AirflowApi:
    """Airflow's API as the user `admin`. Every call raises httpx.HTTPError where Airflow does not answer or refuses."""

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self._client = httpx.Client(base_url=f"http://{LOOPBACK}:{settings.port_airflow}", timeout=15)
        login = {"username": "admin", "password": secrets.airflow_password}
        response = self._client.post("/auth/token", json=login)
        response.raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def dags(self) -> dict[str, dict[str, Any]]:
        """The DAGs that Airflow has parsed, by id."""
        return {dag["dag_id"]: dag for dag in self._get("/dags", limit=100)["dags"]}

    def import_errors(self) -> list[str]:
        """What is wrong with the DAG files, a text each."""
        return [f"{e['filename']}:\n{e['stack_trace']}" for e in self._get("/importErrors")["import_errors"]]

    def pause(self, dag_id: str, paused: bool = True) -> None:
        """Stops the DAG's schedule, or lets it run again; where it is so already, nothing is written."""
        if self._get(f"/dags/{dag_id}")["is_paused"] == paused:
            return
        self._client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": paused}).raise_for_status()

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Starts a run and returns its id."""
        response = self._client.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf or {}})
        response.raise_for_status()
        return str(response.json()["dag_run_id"])

    def runs(self, dag_id: str, limit: int = 5) -> list[dict[str, Any]]:
        """The DAG's last runs, newest first."""
        found: list[dict[str, Any]] = self._get(f"/dags/{dag_id}/dagRuns", limit=limit, order_by="-run_after")[
            "dag_runs"
        ]
        return found

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run."""
        found: dict[str, Any] = self._get(f"/dags/{dag_id}/dagRuns/{run_id}")
        return found

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        found: list[dict[str, Any]] = self._get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return found

    def _get(self, path: str, **params: Any) -> Any:
        response = self._client.get(f"/api/v2{path}", params=params)
        response.raise_for_status()
        return response.json()
