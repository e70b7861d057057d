"""A mirror of the registry in MLflow, where `MLFLOW_TRACKING_URI` is set. The pointer file stays the only truth."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final

from flight_delays.infra.printable import printable
from flight_delays.model import model_card, registry
from flight_delays.settings import Settings, get_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT: Final = "flight-delays"
"""MLflow's name for the experiment."""

log = logging.getLogger(__name__)


def mirror(version: str) -> None:
    """Brings MLflow up to date on a version: its run with scores, card and verdict, and the tag `champion`.

    The model itself stays in the registry: Spark loads it from there. A failure of MLflow, or its absence, is a warning
    in the log and nothing else.
    """
    settings = get_settings()
    if not settings.mlflow_tracking_uri:
        return
    # MLflow would otherwise try for many minutes where its server is down, and predictions wait for this task.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        _mirror(settings, version)
    except Exception as error:  # noqa: BLE001 - whatever MLflow has to say, it is only a mirror
        log.warning("MLflow (MLFLOW_TRACKING_URI) has no copy of model %s: %s", version, printable(error))


def _mirror(settings: Settings, version: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
    runs = client.search_runs([experiment], f"tags.version = '{version}' and attributes.status = 'FINISHED'")
    run = runs[0] if runs else _log_run(client, experiment, settings, version)
    verdict = registry.read_verdict(settings.models, version)
    client.set_tag(run.info.run_id, "verdict", verdict.model_dump_json() if verdict else "never judged")
    if registry.read_pointer(settings.models).champion == version:
        for former in client.search_runs([experiment], "tags.champion = 'true'"):
            client.delete_tag(former.info.run_id, "champion")
        client.set_tag(run.info.run_id, "champion", "true")


def _log_run(client: MlflowClient, experiment: str, settings: Settings, version: str) -> Any:
    from mlflow.entities import Metric, Param

    metadata = registry.load_metadata(settings.models, version)
    at = int(metadata.trained_at.timestamp() * 1000)
    tags = {"version": version, "fingerprint": metadata.fingerprint, "code_version": metadata.code_version}
    run = client.create_run(experiment, start_time=at, run_name=version, tags=tags)
    scores = {"": metadata.metrics, "without_conditions_": metadata.metrics_without_conditions}
    scores |= {f"{name}_": baseline for name, baseline in metadata.baselines.items()}
    metrics = [
        Metric(f"{prefix}{name}", value, at, 0)
        for prefix, each in scores.items()
        for name, value in (each.model_dump().items() if each else ())
    ]
    params = [Param(name, str(value)) for name, value in metadata.params]
    client.log_batch(run.info.run_id, metrics=metrics, params=params)
    for name in (registry.METADATA, model_card.NAME):
        if (path := settings.models / version / name).exists():
            client.log_artifact(run.info.run_id, str(path))
    client.set_terminated(run.info.run_id)
    return run
