"""The original system's training file, `simple_flight_delay_features.jsonl.bz2`: flights of 2015, one JSON a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.contract import DateParts
from flight_delays.data.sources import ARCHIVE_URL, NUMBERS, TEXTS, Chunk, SourceName, Status, status_of
from flight_delays.data.sources.download import download
from flight_delays.data.sources.text import open_text

if TYPE_CHECKING:
    import pandas as pd

_BLOCK_BYTES: Final = 8 << 20
_CHUNK_LINES: Final = 50_000
"""Lines of two bytes, read one by one, would take 400 times their size."""
_NUMBERS: Final = (*NUMBERS, *DateParts._fields)
_TEXTS: Final = ("FlightDate", *TEXTS)


@dataclass(frozen=True)
class Archive:
    """Source `archive`: the file at a URL or path, as `.jsonl`, `.jsonl.gz` or `.jsonl.bz2`."""

    url: str = ARCHIVE_URL
    sha256: str | None = None
    name: str = SourceName.ARCHIVE.value

    def fetch(self, downloads: Path) -> Path:
        return download(self.url, downloads, sha256=self.sha256)

    def chunks(self, path: Path) -> Iterator[Chunk]:
        with open_text(path) as file:
            while lines := file.readlines(_BLOCK_BYTES):
                for start in range(0, len(lines), _CHUNK_LINES):
                    if chunk := _chunk([line for line in lines[start : start + _CHUNK_LINES] if line.strip()]):
                        yield chunk


def _chunk(lines: list[bytes]) -> Chunk | None:
    import pandas as pd

    if not lines:
        return None
    try:
        rows, malformed = _parse_block(lines), None
    except ValueError:  # one line or field is not as expected: find out which
        rows, malformed = _parse_lines(lines)
    status = status_of(rows["DepDelay"], rows["ArrDelay"])
    if malformed:
        status[malformed] = Status.MALFORMED.value
    for column in ("CRSDepTime", "CRSArrTime"):
        rows[column] = _wall_clock(rows[column])
    rows["FlightDate"] = _local_time(rows["FlightDate"]).dt.tz_localize(None).dt.normalize()
    raw = pd.DataFrame({"line": lines}, index=rows.index)
    return Chunk(rows, raw, status)


def _parse_block(lines: list[bytes]) -> pd.DataFrame:
    """The lines as a frame, ten times as fast as line by line; ValueError where any of them is not as expected."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    fields = [(name, pa.float64()) for name in _NUMBERS] + [(name, pa.string()) for name in _TEXTS]
    options = arrow_json.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    table = arrow_json.read_json(io.BytesIO(b"".join(lines)), parse_options=options)
    if table.num_rows != len(lines):
        raise ValueError("not one object a line")
    return table.to_pandas()  # type: ignore[no-any-return]


def _parse_lines(lines: list[bytes]) -> tuple[pd.DataFrame, list[int]]:
    """The lines as a frame, and the positions of those that are no JSON objects."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    malformed: list[int] = []
    for position, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            malformed.append(position)
            row = {}
        rows.append({name: _scalar(row.get(name)) for name in (*_NUMBERS, *_TEXTS)})
    return pd.DataFrame(rows), malformed


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (bool, list, dict)) else value


def _local_time(texts: pd.Series[str]) -> pd.Series[pd.Timestamp]:
    """Timestamps of the archive as the local wall clock (labelled UTC); missing where unreadable.

    Spark wrote the file on a machine in California from local times that it took for UTC. So
    `"CRSDepTime":"2015-12-31T03:05:00.000-08:00"` of a flight from Tucson is not 03:05 Pacific time: the instant read
    in UTC, 11:05, is what the clock in Tucson showed, and `"FlightDate":"2015-12-30T16:00:00.000-08:00"` is the 31st.
    The row itself proves it (DayOfMonth 31, DayOfYear 365), and `records` checks each row that way.
    """
    import pandas as pd

    return pd.to_datetime(texts, utc=True, format="ISO8601", errors="coerce")


def _wall_clock(texts: pd.Series[str]) -> pd.Series[str]:
    """The "HHMM" of timestamps; what is no timestamp stays as it is, so that validation can say so."""
    import pandas as pd

    longer = texts.astype(str).str.len() > 4  # "1105" is such a text already, and no year
    time = _local_time(texts.where(longer))
    names = pd.Series([f"{hour:02}{minute:02}" for hour in range(24) for minute in range(60)])
    return (time.dt.hour * 60 + time.dt.minute).map(names).where(time.notna(), texts)
