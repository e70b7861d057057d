"""What the containers run in place of `make`: Airflow with its configuration, its first runs, and the commands.

The secrets are files under /run/secrets, which docker/make_secrets.py writes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from flight_delays.contract import DagId
from flight_delays.settings import SECRETS_FOLDER, Settings, get_settings
from stack import commands, console
from stack.secrets import Secrets
from stack.services import airflow_environment
from stack.steps import StepFailedError, step
from stack.up import await_dags, await_predictor, refuse_stopped, run_predictor


def secrets(folder: Path = SECRETS_FOLDER) -> Secrets:
    """Those of the containers; what they do not use is as good as any."""
    paths = {field.name: folder / field.name for field in fields(Secrets)}
    return Secrets(**{name: path.read_text() for name, path in paths.items() if path.exists()})


def environment(settings: Settings, folder: Path = SECRETS_FOLDER) -> dict[str, str]:
    """Airflow's, as in the embedded stack, but for its database and for what docker-compose.yaml names."""
    database = (folder / "airflow_database").read_text()
    return {
        **airflow_environment(settings, secrets(folder)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW_CONN_AIRFLOW_DATABASE": json.dumps({"conn_type": "generic", "extra": {"secret_address": database}}),
        **os.environ,
    }


def airflow(settings: Settings, rest: list[str]) -> None:
    """Becomes Airflow's own command line."""
    os.execve(Path(sys.prefix) / "bin" / "airflow", ["airflow", *rest], environment(settings))


def start(settings: Settings, months: str, web_url: str, airflow_url: str) -> None:
    """What `make up` does once all services run; harmless when run again. The URLs are those that are published."""
    with step("DAGs", hint="docker compose logs airflow-dag-processor") as current:
        api = await_dags(settings, secrets(), current)
    with step("predictor", hint="look at the failed task in Airflow; docker compose up starts again") as current:
        refuse_stopped(settings, api)
        await_predictor(settings, api, current, months or None)
        api.pause(DagId.HEALTH, False)
    print(f"""
Web form   {web_url}/flights/delays/predict_kafka
Airflow    {airflow_url}   user admin
Password   docker compose exec airflow-apiserver cat {SECRETS_FOLDER}/airflow_password""")


def status(settings: Settings) -> None:
    """Prints the predictor's status. Raises StepFailedError where it is unhealthy."""
    if console.predictor_status(settings, Console(highlight=False)):
        raise StepFailedError("the predictor is unhealthy", hint="a run of the DAG flight_delay_predictor repairs")


def predictor(settings: Settings, action: str, version: str | None) -> None:
    """Has Airflow start, stop, restart or deploy."""
    with step(f"predictor: {action}") as current:
        run_predictor(settings, secrets(), action, version, current)


def main() -> None:
    """Runs one command; exit status 1, with what failed and what to do, where it fails."""
    parser, command = commands.parser("flights", "The pipeline in containers.", predictor)
    command("airflow", "Airflow's own command line", airflow)("rest", nargs=argparse.REMAINDER)
    add = command("start", "start the DAGs; ends when a model serves", start)
    add("--months", default="", help="the first model learns from these alone; default: all")
    add("--web", dest="web_url", required=True)
    add("--airflow", dest="airflow_url", required=True)
    command("status", "show the predictor's status and events", status)
    commands.run(parser, get_settings, hint="docker compose ps")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
