"""Validation of a source's rows: the contract's reasons for each bad row, the good ones staged as Parquet by month."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from flight_delays.contract import FIRST_DATE, LAST_DATE, DateParts, Reason, date_parts
from flight_delays.data import records
from flight_delays.data.records import KEY, LeftOut, Manifest, MonthFile
from flight_delays.data.sources import NUMBERS, TEXTS, Chunk, Source, SourceName, Status, month_range
from flight_delays.errors import DataError
from flight_delays.infra.files import move_durably, sha256_of, write_atomically

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MAX_BAD_SHARE: Final = 0.01
DUPLICATE: Final = "duplicate"
DATE_MISMATCH: Final = "date_mismatch"
"""The row's DayOfYear, DayOfMonth or DayOfWeek is not that of its FlightDate."""
_MAX_REJECTED: Final = 100_000
"""Maximum number of rejected rows that are kept; all are counted."""


def validate(
    source: Source,
    path: Path,
    records_dir: Path,
    *,
    max_bad_share: float = MAX_BAD_SHARE,
    months: str | None = None,
) -> Path:
    """Reads and checks a source's file and returns a staging folder for `publish`; nothing published is touched.

    `months` limits the rows to "2013-01" or "2013-01..2013-02". Raises DataError where the file cannot be read, holds
    no valid flight, or more than `max_bad_share` of its rows are bad; `rejected/<source>.jsonl` has these then, too.
    """
    limit = month_range(months) if months else None
    staging_root = records_dir / records.STAGING
    staging_root.mkdir(parents=True, exist_ok=True)
    records.sweep(records_dir)
    staging = Path(tempfile.mkdtemp(prefix=f"{source.name}-", dir=staging_root))
    try:
        counts: Counter[str] = Counter()
        rejected_file = staging / "rejected.jsonl"
        with rejected_file.open("w", encoding="utf-8") as file:
            bad = _RejectedRows(file)
            chunks = (_within(chunk, limit) for chunk in source.chunks(path))
            parts = _split_by_month(chunks, staging, counts, bad)
            finished = [_finish_month(source.name, part, staging, bad) for part in parts]
        monthly = source.name == SourceName.BTS
        kept = records_dir / "rejected" / f"{source.name}{f'-{months}' if monthly else ''}.jsonl"
        kept.parent.mkdir(exist_ok=True)
        move_durably(rejected_file, kept)
        if not finished:
            raise DataError(f"{path} holds no valid flight (rows: {dict(counts)}, rejected: {dict(bad.counts)})")
        left_out = LeftOut(
            cancelled=counts[Status.CANCELLED], diverted=counts[Status.DIVERTED], rejected=dict(bad.counts)
        )
        if monthly:
            finished = [month.model_copy(update=left_out.model_dump()) for month in finished]
        manifest = records.summarize(source.name, staging, finished, left_out)
        _check_bad_share(manifest, max_bad_share, path, kept)
        write_atomically(staging / records.MANIFEST, manifest.model_dump_json(indent=1))
    except BaseException:
        shutil.rmtree(staging)
        raise
    log.info("validated %s: %s", path, json.dumps(manifest.summary()))
    return staging


class _RejectedRows:
    """Writes rejected rows into a file of JSON Lines, each with `reason`, `field`, and the row as it came."""

    def __init__(self, file: IO[str]) -> None:
        self.counts: Counter[str] = Counter()
        self._file = file

    def add(self, rows: pd.DataFrame, reasons: pd.Series[str], fields: pd.Series[str]) -> None:
        import pandas as pd

        room = max(0, _MAX_REJECTED - self.counts.total())
        self.counts.update(reasons)
        for row, reason, field in zip(rows.head(room).to_dict("records"), reasons, fields, strict=False):
            cells = {name: None if pd.isna(value) else value for name, value in row.items()}  # NaN is no JSON
            self._file.write(json.dumps({"reason": reason, "field": field or None, **cells}, default=_readable) + "\n")


def _readable(value: object) -> str:
    return value.decode("utf-8", "replace").rstrip("\n") if isinstance(value, bytes) else str(value)


def _split_by_month(chunks: Iterable[Chunk], staging: Path, counts: Counter[str], bad: _RejectedRows) -> list[Path]:
    """Appends the valid rows of each chunk to one unfinished file a month; returns these files in order."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = records.schema()
    writers: dict[str, parquet.ParquetWriter] = {}
    try:
        for chunk in chunks:
            counts.update(chunk.status)
            rows, reasons, fields = _checked(chunk)
            wrong = reasons != ""
            bad.add(chunk.raw[wrong], reasons[wrong], fields[wrong])
            good = rows[~wrong & (chunk.status == Status.FLOWN)]
            for month, flights in good.groupby(good["FlightDate"].dt.strftime("%Y-%m")):
                if str(month) not in writers:
                    writers[str(month)] = parquet.ParquetWriter(staging / f"{month}.part", schema)
                writers[str(month)].write_table(pa.Table.from_pandas(flights, schema, preserve_index=False))
    finally:
        for writer in writers.values():
            writer.close()
    return [staging / f"{month}.part" for month in sorted(writers)]


def _within(chunk: Chunk, limit: pd.PeriodIndex | None) -> Chunk:
    """The rows in the months asked for; a row whose date is unreadable stays, to be rejected."""
    if limit is None:
        return chunk
    date = chunk.rows["FlightDate"]
    inside = date.dt.to_period("M").isin(limit) | date.isna()
    return Chunk(chunk.rows[inside], chunk.raw[inside], chunk.status[inside])


def _checked(chunk: Chunk) -> tuple[pd.DataFrame, pd.Series[str], pd.Series[str]]:
    """The rows in their final types; and for each the reason to reject it and the field, "" where it is good."""
    import pandas as pd

    rows = chunk.rows.copy()
    reasons, fields = pd.Series("", rows.index, dtype=object), pd.Series("", rows.index, dtype=object)

    def reject(wrong: pd.Series[bool], reason: str, field: str) -> None:
        wrong = wrong & (reasons == "") & chunk.status.isin([Status.FLOWN, Status.MALFORMED])
        reasons[wrong], fields[wrong] = reason, field

    reject(chunk.status == Status.MALFORMED, Reason.MALFORMED_JSON, "")
    for field, bounds in NUMBERS.items():
        number = pd.to_numeric(rows[field], errors="coerce").astype(float)
        reject(rows[field].isna(), Reason.MISSING_FIELD, field)
        reject(number.isna(), Reason.WRONG_TYPE, field)
        reject(~number.between(*bounds), Reason.OUT_OF_RANGE, field)
        rows[field] = number
    for field, pattern in TEXTS.items():
        reject(rows[field].isna(), Reason.MISSING_FIELD, field)
        # few values, many rows: each value is looked at once
        valid = {value for value in rows[field].unique() if isinstance(value, str) and re.fullmatch(pattern, value)}
        reject(~rows[field].isin(valid), Reason.INVALID_FORMAT, field)
    reject(rows["Origin"] == rows["Dest"], Reason.SAME_AIRPORT, "Dest")
    date = rows["FlightDate"]
    reject(date.isna(), Reason.INVALID_FORMAT, "FlightDate")
    accepted = date.between(pd.Timestamp(FIRST_DATE), pd.Timestamp(LAST_DATE))
    reject(~accepted, Reason.OUT_OF_RANGE, "FlightDate")
    parts = {day: date_parts(day.date()) for day in date.dropna().unique()}
    for field in DateParts._fields:
        computed = date.map({day: getattr(part, field) for day, part in parts.items()})
        if field in rows:
            reject(pd.to_numeric(rows[field], errors="coerce") != computed, DATE_MISMATCH, field)
        rows[field] = computed
    return rows, reasons, fields


def _finish_month(source: str, part: Path, staging: Path, bad: _RejectedRows) -> MonthFile:
    """Sorts a month's rows, rejects duplicates (the first in the source stays), and writes the file of that month.

    A month of all US carriers is half a million rows, so that this takes a few hundred MB, whatever the source holds.
    """
    import pandas as pd
    from pyarrow import parquet

    table = parquet.read_table(part)
    keys = table.select(KEY).to_pandas(strings_to_categorical=True, date_as_object=False)
    again = keys.duplicated()
    if again.any():
        doubles = table.filter(again.to_numpy()).to_pandas()
        bad.add(doubles, pd.Series(DUPLICATE, doubles.index), pd.Series("", doubles.index))
        table = table.filter(~again.to_numpy())
    table = table.sort_by([(name, "ascending") for name in KEY])
    unnamed = staging / f"{part.stem}.parquet"
    parquet.write_table(table, unnamed)
    digest = sha256_of(unnamed)
    final = staging / source / f"{part.stem}-{digest[:8]}.parquet"
    final.parent.mkdir(exist_ok=True)
    unnamed.rename(final)
    part.unlink()
    return MonthFile(month=part.stem, path=str(final.relative_to(staging)), rows=table.num_rows, sha256=digest)


def _check_bad_share(manifest: Manifest, max_bad_share: float, path: Path, kept: Path) -> None:
    bad = sum(manifest.rejected.values())
    read = manifest.rows + manifest.cancelled + manifest.diverted + bad
    if bad > max_bad_share * read:
        raise DataError(
            f"{bad:,} of {read:,} rows ({bad / read:.2%}) of {path} are bad, above the limit of {max_bad_share:.2%}: "
            f"{manifest.rejected}. They are in {kept}. The published data were not touched; correct the file, or raise "
            "max_bad_share if the rows may be missed"
        )
