"""Form and tasks of the DAG origin_dest_distances."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from airflow.sdk import Metadata

from flight_delays.contract import Collection
from flight_delays.data import distances
from flight_delays.settings import get_settings
from flight_delays_airflow.form import TEXT, field
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import AssetName, asset

DISTANCES: Final = asset(AssetName.DISTANCES)
_PAIRS: Final = "URL or path of JSON Lines with distances in statute miles; empty: the project's own file"
PARAMS: Final = {"path_or_url": field(None, TEXT, "Distances", _PAIRS)}


def download(params: dict[str, Any]) -> str:
    """Path of the file of pairs; see `distances.fetch_pairs`."""
    return str(distances.fetch_pairs(params["path_or_url"], get_settings().downloads))


def import_pairs(path: str) -> Iterator[Metadata]:
    """Imports the file's pairs, and those that only the flight records have; updates the asset with the counts."""
    pairs = distances.with_flown_pairs(distances.read_pairs(Path(path)), get_settings().records)
    with database() as db:
        yield Metadata(DISTANCES, {**distances.import_distances(db[Collection.DISTANCES], pairs)})
