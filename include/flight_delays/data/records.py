"""Flight records: validated, kept as Parquet by month, and published as one data set by a manifest.

<records>/manifest.json                            what the data set is: the only truth, switched last
<records>/<source>/<YYYY-MM>-<hash>.parquet        one month, never changed
<records>/rejected/<source>.jsonl                  rows set aside by the last validation, each with its reason;
                                                  of a source of monthly files, <source>-<YYYY-MM>.jsonl
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from flight_delays import contract
from flight_delays.contract import DagId, Pair, Reason, date_parts
from flight_delays.data.sources import Chunk, Source, SourceName, Status, get_source, month_name, month_range
from flight_delays.errors import DataError
from flight_delays.infra import files
from flight_delays.infra.files import move_durably, read_json, sha256_of, write_atomically
from flight_delays.settings import get_settings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger(__name__)

MAX_BAD_SHARE: Final = 0.01
DUPLICATE: Final = "duplicate"
HELD_BACK: Final = "month_held_back"
DATE_MISMATCH: Final = "date_mismatch"
"""The row's DayOfYear, DayOfMonth or DayOfWeek is not that of its FlightDate."""

KEY: Final = ("FlightDate", "Carrier", "FlightNum", "Origin", "Dest", "CRSDepTime")
_DATE_PARTS: Final = ("DayOfYear", "DayOfMonth", "DayOfWeek")
NUMBERS: Final = {
    "ArrDelay": contract.DELAY_MINUTES,
    "DepDelay": contract.DELAY_MINUTES,
    "Distance": contract.DISTANCE_MILES,
}
TEXTS: Final = {
    "Carrier": contract.CARRIER_PATTERN,
    "FlightNum": contract.FLIGHT_NUMBER_PATTERN,
    "Origin": contract.AIRPORT_PATTERN,
    "Dest": contract.AIRPORT_PATTERN,
    "CRSDepTime": contract.HHMM_PATTERN,
    "CRSArrTime": contract.HHMM_PATTERN,
}
_MAX_SET_ASIDE: Final = 100_000
"""Of a file that is bad from end to end, only so many rows are kept; all are counted."""
_LOG_EVERY_SECONDS: Final = 5.0
_STALE_SECONDS: Final = 24 * 3600
_MANIFEST: Final = "manifest.json"
_PREVIOUS: Final = "manifest.previous.json"


class MonthFile(BaseModel):
    """A published file: `month` "2013-01", `path` relative to the records folder, its rows and checksum."""

    model_config = ConfigDict(frozen=True)

    month: str
    path: str
    rows: int
    sha256: str
    cancelled: int = 0
    diverted: int = 0
    rejected: dict[str, int] = {}
    """These three are known by month only where the source has a file for each (`bts`)."""


class Manifest(BaseModel):
    """What the published data set is. Rows read = `rows` + `cancelled` + `diverted` + all of `rejected`."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    source: str
    created_at: dt.datetime
    rows: int
    cancelled: int
    diverted: int
    rejected: dict[str, int]
    """Rows set aside, by reason."""
    first_date: dt.date
    last_date: dt.date
    months: list[MonthFile]
    fingerprint: str
    """Hash over the months' checksums: the same rows have the same fingerprint."""
    carriers: list[str]
    airports: list[str]
    pairs: list[Pair]
    """Routes flown, with their distance (the median, where records differ)."""

    @property
    def duplicates(self) -> int:
        """Rows set aside because the same flight was there before."""
        return self.rejected.get(DUPLICATE, 0)

    def summary(self) -> dict[str, Any]:
        """The figures that a person or an asset event wants, ready for JSON."""
        wanted = {"source", "rows", "cancelled", "diverted", "rejected", "first_date", "last_date", "fingerprint"}
        return self.model_dump(mode="json", include=wanted)


def schema() -> pa.Schema:
    """Columns and types of the Parquet files: the contract's training row."""
    import pyarrow as pa

    types = {
        "ArrDelay": pa.float64(),
        "CRSArrTime": pa.string(),
        "CRSDepTime": pa.string(),
        "Carrier": pa.string(),
        "DayOfMonth": pa.int32(),
        "DayOfWeek": pa.int32(),
        "DayOfYear": pa.int32(),
        "DepDelay": pa.float64(),
        "Dest": pa.string(),
        "Distance": pa.float64(),
        "FlightDate": pa.date32(),
        "FlightNum": pa.string(),
        "Origin": pa.string(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def read_manifest(records_dir: Path | None = None) -> Manifest | None:
    """The published data set's manifest; None where nothing was published yet. DataError where it is unreadable."""
    try:
        return read_json((records_dir or get_settings().records) / _MANIFEST, Manifest)
    except FileNotFoundError:
        return None
    except DataError as error:
        raise DataError(f"{error}; delete it and import the flights again (DAG {DagId.RECORDS})") from error


def month_files(records_dir: Path | None = None) -> list[Path]:
    """The published Parquet files, in the order of time; empty where nothing was published yet."""
    folder = records_dir or get_settings().records
    manifest = read_manifest(folder)
    return [folder / month.path for month in manifest.months] if manifest else []


def read_flights(records_dir: Path, first: dt.date, last: dt.date, columns: list[str]) -> pd.DataFrame:
    """Those columns of the published flights from `first` to `last`, without rows that lack one; empty where none."""
    import pandas as pd
    from pyarrow import parquet

    manifest = read_manifest(records_dir)
    months = (
        [month for month in manifest.months if f"{first:%Y-%m}" <= month.month <= f"{last:%Y-%m}"] if manifest else []
    )
    between = [("FlightDate", ">=", first), ("FlightDate", "<=", last)]
    tables = [parquet.read_table(records_dir / month.path, columns=columns, filters=between) for month in months]
    return pd.concat([table.to_pandas() for table in tables]).dropna() if tables else pd.DataFrame(columns=columns)


def import_records(
    source: Source,
    *,
    records_dir: Path | None = None,
    downloads: Path | None = None,
    max_bad_share: float = MAX_BAD_SHARE,
    months: str | None = None,
) -> Manifest:
    """Fetches, validates and publishes the flights of a source: the three steps of the DAG `flight_records`."""
    folder = records_dir or get_settings().records
    path = source.fetch(downloads or get_settings().downloads)
    return publish([validate(source, path, folder, max_bad_share=max_bad_share, months=months)], folder)


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
    staging_root = records_dir / "staging"
    staging_root.mkdir(parents=True, exist_ok=True)
    sweep(records_dir)
    staging = Path(tempfile.mkdtemp(prefix=f"{source.name}-", dir=staging_root))
    try:
        counts: Counter[str] = Counter()
        rejected_file = staging / "rejected.jsonl"
        with _SetAside(rejected_file) as bad:
            chunks = (_within(chunk, limit) for chunk in source.chunks(path))
            parts = _split_by_month(chunks, staging, counts, bad)
            finished = [_finish_month(source.name, part, staging, bad) for part in parts]
        monthly = source.name == SourceName.BTS
        kept = records_dir / "rejected" / f"{source.name}{f'-{months}' if monthly else ''}.jsonl"
        kept.parent.mkdir(exist_ok=True)
        move_durably(rejected_file, kept)
        if not finished:
            raise DataError(f"{path} holds no valid flight (rows: {dict(counts)}, rejected: {dict(bad.counts)})")
        totals: dict[str, Any] = {
            "cancelled": counts[Status.CANCELLED],
            "diverted": counts[Status.DIVERTED],
            "rejected": dict(sorted(bad.counts.items())),
        }
        if monthly:
            finished = [month.model_copy(update=totals) for month in finished]
        manifest = _manifest(source.name, staging, finished, **totals)
        _check_bad_share(manifest, max_bad_share, path, kept)
        write_atomically(staging / _MANIFEST, manifest.model_dump_json(indent=1))
    except BaseException:
        shutil.rmtree(staging)
        raise
    log.info("validated %s: %s", path, json.dumps(manifest.summary()))
    return staging


def validate_file(file: dict[str, Any]) -> str:
    """`validate` as a task of the DAG: `file` is one of `sources.split`, with the `path` of what was downloaded."""
    limits = {"max_bad_share": file["max_bad_share"], "months": file["months"]}
    return str(validate(get_source(file), Path(file["path"]), get_settings().records, **limits))


def sweep(records_dir: Path, *, dry_run: bool = False) -> list[str]:
    """Removes the staging folders of runs that are long over; returns their names."""
    return files.sweep(records_dir / "staging", _STALE_SECONDS, dry_run=dry_run)


def publish(stagings: Iterable[str | Path], records_dir: Path, held_back: Collection[str] = ()) -> Manifest:
    """Makes the data that `validate` staged the published ones, without the months `held_back`.

    The same data again change nothing. Months of `bts` come beside the months of `bts` that are there; anything else
    replaces the data set. The files of the data set before stay until the next publication, for readers that began
    with them.
    """
    folders, staged, current = [Path(staging) for staging in stagings], [], read_manifest(records_dir)
    for staging in folders:
        if not (manifest := read_manifest(staging)):
            raise DataError(f"{staging} is gone (published already, or older than a day): validate again")
        staged.append(manifest)
        for month in manifest.months:
            if month.month in held_back:
                continue
            target = records_dir / month.path
            target.parent.mkdir(exist_ok=True)
            if (staging / month.path).is_file():  # a run before this one may have moved it already
                move_durably(staging / month.path, target)
    manifest = _joined(staged, current, records_dir, held_back)
    if current and current.fingerprint == manifest.fingerprint:
        manifest = current
    else:
        if current:
            write_atomically(records_dir / _PREVIOUS, current.model_dump_json(indent=1))
        write_atomically(records_dir / _MANIFEST, manifest.model_dump_json(indent=1))
        named = {month.path for each in (manifest, current) if each for month in each.months}
        for file in records_dir.glob("*/*.parquet"):
            if str(file.relative_to(records_dir)) not in named:
                file.unlink()
    for staging in folders:
        shutil.rmtree(staging)
    return manifest


def months_there(source: str, records_dir: Path | None = None) -> list[str]:
    """The published months of a source, such as "2013-01"; none where another source's flights are published."""
    manifest = read_manifest(records_dir)
    return [month.month for month in manifest.months] if manifest and manifest.source == source else []


def months_since(today: dt.date, records_dir: Path | None = None) -> str | None:
    """The months of `bts` that have ended since the last one published, as a range; None where there is none."""
    there = months_there(SourceName.BTS, records_dir)
    if not there:
        return None
    first, last = month_range(there[-1])[0] + 1, today.year * 12 + today.month - 2
    return f"{month_name(first)}..{month_name(last)}" if first <= last else None


def _joined(
    staged: list[Manifest], current: Manifest | None, records_dir: Path, held_back: Collection[str]
) -> Manifest:
    """What is to be published: the only staged data set, or all staged months and those of the same source there."""
    new = [month for manifest in staged for month in manifest.months if month.month not in held_back]
    if not new:
        if not current:
            raise DataError("no month was there to be fetched, and none is published: choose other months")
        return current
    if staged[0].source != SourceName.BTS:
        if len(new) == len(staged[0].months):
            return staged[0]
        rejected = {**staged[0].rejected, HELD_BACK: staged[0].rows - sum(month.rows for month in new)}
        cancelled, diverted = staged[0].cancelled, staged[0].diverted
        return _manifest(staged[0].source, records_dir, new, cancelled=cancelled, diverted=diverted, rejected=rejected)
    known = current.months if current and current.source == SourceName.BTS else []
    months = {month.month: month for month in (*known, *new)}
    return _manifest(
        SourceName.BTS.value,
        records_dir,
        [months[month] for month in sorted(months)],
        cancelled=sum(month.cancelled for month in months.values()),
        diverted=sum(month.diverted for month in months.values()),
        rejected=dict(sorted(sum((Counter(month.rejected) for month in months.values()), Counter()).items())),
    )


# --- Validation ------------------------------------------------------------------------------------------------


class _SetAside:
    """The file of rejected rows: JSON Lines with `reason`, `field`, and the row as it came."""

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._file: IO[str] = path.open("w", encoding="utf-8")

    def __enter__(self) -> _SetAside:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: pd.DataFrame, reasons: pd.Series[str], fields: pd.Series[str]) -> None:
        import pandas as pd

        room = max(0, _MAX_SET_ASIDE - self.counts.total())
        self.counts.update(reasons)
        for row, reason, field in zip(rows.head(room).to_dict("records"), reasons, fields, strict=False):
            cells = {name: None if pd.isna(value) else value for name, value in row.items()}  # NaN is no JSON
            self._file.write(json.dumps({"reason": reason, "field": field or None, **cells}, default=_readable) + "\n")


def _readable(value: object) -> str:
    return value.decode("utf-8", "replace").rstrip("\n") if isinstance(value, bytes) else str(value)


def _split_by_month(chunks: Iterable[Chunk], staging: Path, counts: Counter[str], bad: _SetAside) -> list[Path]:
    """Appends the valid rows of each chunk to one unfinished file a month; returns these files in order."""
    import pyarrow as pa
    from pyarrow import parquet

    writers: dict[str, parquet.ParquetWriter] = {}
    logged = time.monotonic()
    try:
        for chunk in chunks:
            counts.update(chunk.status)
            rows, reasons, fields = _checked(chunk)
            wrong = reasons != ""
            bad.add(chunk.raw[wrong], reasons[wrong], fields[wrong])
            good = rows[~wrong & (chunk.status == Status.FLOWN)]
            for month, flights in good.groupby(good["FlightDate"].dt.strftime("%Y-%m")):
                if str(month) not in writers:
                    writers[str(month)] = parquet.ParquetWriter(staging / f"{month}.part", schema())
                writers[str(month)].write_table(pa.Table.from_pandas(flights, schema(), preserve_index=False))
            if time.monotonic() - logged >= _LOG_EVERY_SECONDS:
                logged = time.monotonic()
                log.info("%s rows read, %s bad", f"{counts.total():,}", f"{bad.counts.total():,}")
    finally:
        for writer in writers.values():
            writer.close()
    return [staging / f"{month}.part" for month in sorted(writers)]


def _within(chunk: Chunk, limit: tuple[int, int] | None) -> Chunk:
    """The rows in the months asked for; a row whose date is unreadable stays, to be rejected."""
    if limit is None:
        return chunk
    date = chunk.rows["FlightDate"]
    inside = (date.dt.year * 12 + date.dt.month - 1).between(*limit) | date.isna()
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
    reject(
        ~date.between(pd.Timestamp(contract.FIRST_DATE), pd.Timestamp(contract.LAST_DATE)),
        Reason.OUT_OF_RANGE,
        "FlightDate",
    )
    parts = {day: date_parts(day.date()) for day in date.dropna().unique()}
    for field in _DATE_PARTS:
        computed = date.map({day: getattr(part, field) for day, part in parts.items()})
        if field in rows:
            reject(pd.to_numeric(rows[field], errors="coerce") != computed, DATE_MISMATCH, field)
        rows[field] = computed
    return rows, reasons, fields


def _finish_month(source: str, part: Path, staging: Path, bad: _SetAside) -> MonthFile:
    """Sorts a month's rows, sets duplicates aside (the first in the source stays), and writes the file of that month.

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


def _manifest(
    source: str, folder: Path, months: list[MonthFile], *, cancelled: int, diverted: int, rejected: dict[str, int]
) -> Manifest:
    """The manifest of these months, whose files lie in `folder`; one month at a time is in memory."""
    import pyarrow as pa
    from pyarrow import compute, parquet

    def by_route(month: MonthFile) -> pa.Table:
        columns = ["Carrier", "Origin", "Dest", "Distance"]
        table = parquet.read_table(folder / month.path, columns=[*columns, "FlightDate"])
        return table.group_by(columns).aggregate([([], "count_all"), ("FlightDate", "min"), ("FlightDate", "max")])

    found = pa.concat_tables(by_route(month) for month in months)
    rows = sum(month.rows for month in months)
    assert compute.sum(found["count_all"]).as_py() == rows  # noqa: S101 - no row may get lost
    routes = found.to_pandas()
    weights = routes.groupby(["Origin", "Dest", "Distance"], as_index=False)["count_all"].sum()
    pairs = []
    for (origin, dest), each in weights.groupby(["Origin", "Dest"]):
        middle = each["count_all"].cumsum() >= each["count_all"].sum() / 2  # rows are in the order of Distance
        pairs.append(Pair(Origin=origin, Dest=dest, Distance=float(each["Distance"][middle].iloc[0])))
    fingerprint = hashlib.sha256("".join(f"{month.month} {month.sha256}\n" for month in months).encode())
    return Manifest(
        source=source,
        created_at=dt.datetime.now(dt.UTC),
        rows=rows,
        cancelled=cancelled,
        diverted=diverted,
        rejected=rejected,
        first_date=routes["FlightDate_min"].min(),
        last_date=routes["FlightDate_max"].max(),
        months=months,
        fingerprint=fingerprint.hexdigest(),
        carriers=sorted(routes["Carrier"].unique()),
        airports=sorted({*routes["Origin"], *routes["Dest"]}),
        pairs=pairs,
    )


def _check_bad_share(manifest: Manifest, max_bad_share: float, path: Path, kept: Path) -> None:
    bad = sum(manifest.rejected.values())
    read = manifest.rows + manifest.cancelled + manifest.diverted + bad
    if bad > max_bad_share * read:
        raise DataError(
            f"{bad:,} of {read:,} rows ({bad / read:.2%}) of {path} are bad, above the limit of {max_bad_share:.2%}: "
            f"{manifest.rejected}. They are in {kept}. The published data were not touched; mend the file, or raise "
            "max_bad_share if the rows may be missed"
        )
