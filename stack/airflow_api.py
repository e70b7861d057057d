"""The little of Airflow's REST API that `make up` and `make status` need."""

from __future__ import annotations

import datetime as dt
from typing import Any

import httpx
from pymongo.errors import PyMongoError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from flight_delays.settings import LOOPBACK, Settings
from stack.secrets import Secrets

ACTIVE = frozenset({"queued", "running"})


def retrying(seconds: float) -> Retrying:
    """Calls a function until it succeeds, while MongoDB or an HTTP server is away or fails, for at most `seconds`."""

    def may_pass(error: BaseException) -> bool:
        if isinstance(error, httpx.HTTPStatusError):
            return error.response.is_server_error
        return isinstance(error, httpx.TransportError | PyMongoError)

    return Retrying(
        retry=retry_if_exception(may_pass), stop=stop_after_delay(seconds), wait=wait_fixed(0.5), reraise=True
    )


class AirflowApi:
    """Airflow's API as the user `admin`. Every call raises httpx.HTTPError where Airflow refuses, or does not answer
    within `timeout_seconds`."""

    def __init__(self, settings: Settings, secrets: Secrets, timeout_seconds: float = 0) -> None:
        self._client = httpx.Client(base_url=f"http://{LOOPBACK}:{settings.port_airflow}", timeout=15)
        self._retrying = retrying(timeout_seconds)
        login = {"username": "admin", "password": secrets.airflow_password}
        token = self._send("POST", "/auth/token", json=login)["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def dags(self) -> dict[str, dict[str, Any]]:
        """The DAGs that Airflow has parsed, by id."""
        return {dag["dag_id"]: dag for dag in self._get("/dags", limit=100)["dags"]}

    def import_errors(self) -> list[str]:
        """What is wrong with the DAG files, a text each."""
        return [f"{e['filename']}:\n{e['stack_trace']}" for e in self._get("/importErrors")["import_errors"]]

    def pause(self, dag_id: str, paused: bool = True) -> None:
        """Stops the DAG's schedule, or lets it run again; where it is so already, nothing is written."""
        if self._get(f"/dags/{dag_id}")["is_paused"] != paused:
            self._send("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": paused})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Starts a run and returns its id."""
        run_id = f"manual__{dt.datetime.now(dt.UTC).isoformat()}"
        run = {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}}
        try:
            self._send("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=run)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.CONFLICT:  # an earlier try whose answer did not arrive
                raise
        return run_id

    def runs(self, dag_id: str, limit: int = 5) -> list[dict[str, Any]]:
        """The DAG's last runs, newest first; those of all DAGs for "~"."""
        return list(self._get(f"/dags/{dag_id}/dagRuns", limit=limit, order_by="-run_after")["dag_runs"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run."""
        return dict(self._get(f"/dags/{dag_id}/dagRuns/{run_id}"))

    def tasks(self, dag_id: str, run_id: str, **filters: str) -> list[dict[str, Any]]:
        """The task instances of a run; those of all runs for "~", "~"."""
        return list(self._get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", **filters)["task_instances"])

    def _get(self, path: str, **params: Any) -> Any:
        return self._send("GET", f"/api/v2{path}", params=params)

    def _send(self, method: str, path: str, **request: Any) -> Any:
        def send() -> Any:
            response = self._client.request(method, path, **request)
            response.raise_for_status()
            return response.json()

        return self._retrying(send)
