"""The page Predictor: the status, and buttons that trigger its DAG.

Who may read that DAG sees the page. The buttons call Airflow's own API with the reader's own login, so that it is
Airflow that decides whether a run may be triggered; its cookie is SameSite=Lax, so no other site can press them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader

from flight_delays.contract import DagId
from flight_delays.errors import RegistryError
from flight_delays.infra.printable import finalize
from flight_delays.model import registry
from flight_delays.predictor.status import read_status, rows
from flight_delays.settings import get_settings

_READ = Depends(requires_access_dag(method="GET", param_dag_id=DagId.PREDICTOR.value))
_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=finalize)

app = FastAPI(title="Predictor", dependencies=[_READ], openapi_url=None)  # what FastAPI adds itself has no guard


@app.get("/")
def page(user: GetUserDep) -> HTMLResponse:
    """The page; 401 without a login, 403 for who may not read the DAG."""
    settings = get_settings()
    found = read_status(settings)
    may_act = get_auth_manager().is_authorized_dag(
        method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=DagId.PREDICTOR.value), user=user
    )
    html = _TEMPLATES.get_template("page.html").render(
        status=found,
        rows=rows(found),
        versions=_versions(),
        may_act=may_act,
        dag=DagId.PREDICTOR.value,
        training=DagId.TRAINING.value,
        spark_ui=settings.spark_ui_url,
    )
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})


@app.get("/status")
def status() -> dict[str, Any]:
    """`read_status()` in JSON's types."""
    return read_status(get_settings()).model_dump(mode="json")


def _versions() -> list[tuple[str, str]]:
    """The versions that may be deployed, newest first, with what they are."""
    models = get_settings().models
    try:
        pointer = registry.read_pointer(models)
    except RegistryError:
        pointer = registry.Pointer()
    roles = {pointer.previous: "previous", pointer.champion: "champion"}
    return [(version, roles.get(version, "")) for version in registry.versions(models)]
