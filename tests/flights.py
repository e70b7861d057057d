"""Flight records made without Airflow."""

from __future__ import annotations

from pathlib import Path

from flight_delays.data import records
from flight_delays.data.sources import Source
from flight_delays.data.validation import MAX_BAD_SHARE, validate
from flight_delays.settings import get_settings


def import_records(
    source: Source,
    *,
    records_dir: Path | None = None,
    downloads: Path | None = None,
    max_bad_share: float = MAX_BAD_SHARE,
    months: str | None = None,
) -> records.Manifest:
    """Fetches, validates and publishes the flights of a source: the three steps of the DAG `flight_records`."""
    folder = records_dir or get_settings().records
    path = source.fetch(downloads or get_settings().downloads)
    return records.publish([validate(source, path, folder, max_bad_share=max_bad_share, months=months)], folder)
