"""Tasks of the DAG flight_records; `file` is one of `sources.split`, with the `path` of what was downloaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from flight_delays.data import records, validation
from flight_delays.data.sources import get_source
from flight_delays.settings import get_settings


def validate(file: dict[str, Any]) -> str:
    """The staging folder of the checked file; see validation.validate."""
    limits = {"max_bad_share": file["max_bad_share"], "months": file["months"]}
    return str(validation.validate(get_source(file), Path(file["path"]), get_settings().records, **limits))


def publish(stagings: Iterable[str] | None, report: Collection[dict[str, Any]]) -> dict[str, Any]:
    """Publishes the months that the report does not hold back; returns the summary, with the report."""
    held = [entry["month"] for entry in report if entry["held_back"]]
    return {**records.publish(stagings or (), get_settings().records, held).summary(), "quality": report}
