"""The Bureau of Transportation Statistics' monthly On-Time files: all domestic flights of the larger US carriers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flight_delays.data.sources import Chunk, NotPublishedError, SourceName, Status, status_of
from flight_delays.data.sources.download import NotFoundError, download
from flight_delays.data.sources.text import check_zip, read_csv
from flight_delays.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_PUBLISHED_AFTER: Final = dt.timedelta(days=120)
"""The Bureau publishes a month some two to three months after its end; later than this, a 404 is a fault."""
_COLUMNS: Final = {"Reporting_Airline": "Carrier", "Flight_Number_Reporting_Airline": "FlightNum"} | {
    name: name
    for name in ("FlightDate", "Origin", "Dest", "CRSDepTime", "CRSArrTime", "DepDelay", "ArrDelay", "Distance")
}
_FLAGS: Final = {Status.DIVERTED: "Diverted", Status.CANCELLED: "Cancelled"}


@dataclass(frozen=True)
class Bts:
    """Source `bts`: the zip of CSV of one `month` ("2013-01") at `url`, a template with {year} and {month}.

    The Bureau publishes no checksums; the zip's own CRC is checked when it is read to its end.
    """

    url: str
    month: str
    name: str = SourceName.BTS.value

    def fetch(self, downloads: Path) -> Path:
        """Also raises NotPublishedError where the month is too young to be an error when it is not there."""
        first = dt.date.fromisoformat(f"{self.month}-01")
        try:
            # "{month}" is 1 .. 12 without a zero, as in the Bureau's names; "{month:02}" has one
            url = self.url.format(year=first.year, month=first.month)
        except (LookupError, ValueError) as error:
            raise DataError(f"{self.url} is no template of {{year}} and {{month}}: {error}") from error
        try:
            path = download(url, downloads).path
        except NotFoundError as error:
            if dt.datetime.now(dt.UTC).date() - _PUBLISHED_AFTER < first + dt.timedelta(days=31):
                raise NotPublishedError(f"{self.month} is not published yet: {error}") from error
            raise
        try:
            check_zip(path)
        except DataError as error:
            if path.is_relative_to(downloads.absolute()):
                path.unlink()  # else the server would say for ever that it is unchanged
            raise DataError(f"{url}: {error}") from error
        return path

    def chunks(self, path: Path) -> Iterator[Chunk]:
        for raw in read_csv(path, [*_COLUMNS, *_FLAGS.values()], null=""):
            yield self._chunk(raw, path)

    def _chunk(self, raw: pd.DataFrame, path: Path) -> Chunk:
        import pandas as pd

        rows = raw.rename(columns=_COLUMNS)
        # "PA (1)": who had a code before its present holder gets a number (the Bureau's "Unique Carrier Code")
        rows["Carrier"] = rows["Carrier"].str.replace(r" *\([0-9]\)$", "", regex=True)
        date = pd.to_datetime(rows["FlightDate"], format="%Y-%m-%d", errors="coerce")
        strangers = date.notna() & (date.dt.to_period("M") != pd.Period(self.month))
        if strangers.any():
            raise DataError(f"{path} holds a flight of {date[strangers].iloc[0]:%Y-%m-%d}: expected is {self.month}")
        rows["FlightDate"] = date
        for column in ("CRSDepTime", "CRSArrTime"):  # "2400" is midnight at the day's end
            rows[column] = rows[column].str.zfill(4).replace("2400", "0000")
        status = status_of(rows["DepDelay"], rows["ArrDelay"])
        for flag, name in _FLAGS.items():
            status[pd.to_numeric(rows.pop(name), errors="coerce") == 1] = flag.value
        return Chunk(rows, raw, status)
