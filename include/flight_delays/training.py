"""What the training DAG does around the training job: is there enough to train on, and whom does the pointer name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flight_delays import records, registry
from flight_delays.settings import get_settings
from flight_delays.sources import DataError


def prepare(params: dict[str, Any], run_id: str) -> dict[str, Any]:
    """An empty staging folder (`staged`), and the `arguments` of `spark_jobs/train_model.py` that fill it.

    `params`: `trees`, `depth`, `seed`, `holdout_months`. Raises DataError where records, or enough months, are missing.
    """
    settings = get_settings()
    manifest = records.read_manifest(settings.records)
    if manifest is None:
        raise DataError(f"There are no flight records in {settings.records}: run the DAG flight_records first")
    if len(manifest.months) <= params["holdout_months"]:
        raise DataError(
            f"The flight records hold {len(manifest.months)} month(s) ({', '.join(m.month for m in manifest.months)}), "
            f"too few to hold out {params['holdout_months']} and train on the others: import more months with the DAG "
            "flight_records, or lower holdout_months"
        )
    staged = registry.stage(settings.models, run_id)
    arguments = ["--records", *(str(settings.records / month.path) for month in manifest.months)]
    arguments += ["--output", str(staged), "--fingerprint", manifest.fingerprint, "--weather", str(settings.weather)]
    for name in ("trees", "depth", "seed", "holdout_months"):
        arguments += [f"--{name.replace('_', '-')}", str(params[name])]
    return {"staged": str(staged), "arguments": arguments}


def register(staged: str) -> str:
    """Registers the model in a staging folder of `prepare`; returns its version."""
    return registry.register(get_settings().models, Path(staged))


def promote(version: str) -> dict[str, Any]:
    """Makes the version the champion; returns what the model's asset event says of it."""
    models = get_settings().models
    registry.promote(models, version)
    return {"version": version, **registry.load_metadata(models, version).metrics.model_dump()}
