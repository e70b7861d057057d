"""What the DAGs do around the training job: is there enough to train on, and whom does the pointer name."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Any, Final

from flight_delays.data import records
from flight_delays.errors import DataError, RegistryError
from flight_delays.model import mlflow_mirror, promotion_checks, registry
from flight_delays.model.registry import Verdict
from flight_delays.settings import get_settings

PREVIOUS: Final = "previous"
"""What `roll_back` takes instead of a version's name."""

log = logging.getLogger(__name__)


def prepare(params: dict[str, Any], run_id: str) -> dict[str, Any]:
    """An empty staging folder (`staged`), and the `arguments` of `spark_jobs/train_model.py` that fill it.

    `params`: `trees`, `depth`, `seed`, `holdout_months`. Raises DataError where records, or enough months, are missing.
    """
    settings = get_settings()
    manifest = records.read_manifest(settings.records)
    if manifest is None:
        raise DataError(f"There are no flight records in {settings.records}: run the DAG flight_records first")
    if len(manifest.months) <= params["holdout_months"]:
        months = ", ".join(month.month for month in manifest.months)
        raise DataError(
            f"The flight records hold {months}: too few months to hold out {params['holdout_months']} and train on the "
            "others; import more with the DAG flight_records, or lower holdout_months"
        )
    staged = registry.stage(settings.models, run_id)
    arguments = ["--records", *(str(settings.records / month.path) for month in manifest.months)]
    arguments += ["--output", str(staged), "--fingerprint", manifest.fingerprint, "--weather", str(settings.weather)]
    for name in ("trees", "depth", "seed", "holdout_months"):
        arguments += [f"--{name.replace('_', '-')}", str(params[name])]
    if champion := registry.read_pointer(settings.models).champion:
        arguments += ["--champion", str(settings.models / champion)]
    return {"staged": str(staged), "arguments": arguments}


def register(staged: str) -> str:
    """Registers the model in a staging folder of `prepare`; returns its version."""
    return registry.register(get_settings().models, Path(staged))


def judge(version: str, params: dict[str, Any]) -> dict[str, Any]:
    """The verdict on the version, kept in the registry; `params`: `force`. The pointer stays as it is.

    A version that serves, or is `previous`, keeps the verdict that brought it there.
    """
    settings = get_settings()
    pointer, verdict = registry.read_pointer(settings.models), registry.read_verdict(settings.models, version)
    if verdict is None or version not in (pointer.champion, pointer.previous):
        metadata = registry.load_metadata(settings.models, version)
        limit = settings.max_calibration_error
        verdict = promotion_checks.judge(version, metadata, pointer.champion, limit=limit, force=params["force"])
        registry.save_verdict(settings.models, verdict)
        log.info("Model %s on the holdout: %s", version, metadata.metrics)
    log.info("Model %s may %s. %s", version, "serve" if verdict.passed else "not serve", "; ".join(verdict.reasons))
    mlflow_mirror.mirror(version)
    return verdict.model_dump(mode="json")


def promote(version: str) -> dict[str, Any]:
    """Makes a version that passed the champion; returns what the model's asset event says of it.

    Raises RegistryError where it did not pass, or another champion came since it was judged (while a person thought).
    """
    models = get_settings().models
    verdict = registry.read_verdict(models, version)
    if verdict is None or not verdict.passed:
        raise RegistryError(f"Model {version} did not pass: judge it first, or with force")
    champion = registry.read_pointer(models).champion
    if champion not in (version, verdict.champion):
        raise RegistryError(f"Model {version} was judged beside {verdict.champion}, but {champion} serves: train again")
    return move(models, version, "promoted by the training DAG")


def roll_back(params: dict[str, Any]) -> dict[str, Any]:
    """Makes an older version the champion; returns what the model's asset event says of it.

    `params`: `version`, a version or `PREVIOUS`. Raises DataError where there is no such version, or it is damaged.
    """
    models = get_settings().models
    version = params["version"].strip()
    if version == PREVIOUS:
        if (previous := registry.read_pointer(models).previous) is None:
            raise DataError("There is no previous model: no champion was ever replaced")
        version = previous
    try:
        registry.verify(models, version)
    except RegistryError as error:
        raise DataError(f"{error} (there are: {', '.join(registry.versions(models)) or 'none'})") from error
    return move(models, version, "rolled back to, by hand")


def move(models: Path, version: str, why: str) -> dict[str, Any]:
    """Makes a version the champion and notes why in the verdicts; returns what the model's asset event says of it.

    Raises RegistryError where the version is missing or damaged; the pointer stays as it was.
    """
    before = registry.read_pointer(models).champion
    if registry.promote(models, version).champion != before:
        _note(models, version, why)
        if before:
            _note(models, before, f"replaced by {version}, {why}")
    mlflow_mirror.mirror(version)
    return {"version": version, **registry.load_metadata(models, version).metrics.model_dump()}


def _note(models: Path, version: str, what: str) -> None:
    """Adds a sentence to the verdict on a version."""
    try:
        verdict = registry.read_verdict(models, version)
    except RegistryError as error:
        log.warning("%s", error)
        verdict = None
    now = dt.datetime.now(dt.UTC)
    verdict = verdict or Verdict(
        version=version, judged_at=now, passed=True, reasons=(), champion=None, history=("never judged",)
    )
    line = f"{now:%Y-%m-%d %H:%M} UTC: {what}"
    registry.save_verdict(models, verdict.model_copy(update={"history": (*verdict.history, line)}))
