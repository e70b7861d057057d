"""The published flight records: Parquet by month, made one data set by a manifest.

<records>/manifest.json                            what the data set is: the only truth, switched last
<records>/<source>/<YYYY-MM>-<hash>.parquet        one month, never changed
<records>/rejected/<source>.jsonl                  rows that the last validation rejected, each with its reason;
                                                  of a source of monthly files, <source>-<YYYY-MM>.jsonl
<records>/staging/                                 what `validation` has checked and nobody has published yet
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel

from flight_delays.contract import DagId, DateParts, Pair
from flight_delays.data.sources import NUMBERS, TEXTS, SourceName
from flight_delays.errors import DataError
from flight_delays.infra import files
from flight_delays.infra.files import move_durably, read_json, write_atomically
from flight_delays.settings import get_settings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

HELD_BACK: Final = "month_held_back"
KEY: Final = ("FlightDate", "Carrier", "FlightNum", "Origin", "Dest", "CRSDepTime")
MANIFEST: Final = "manifest.json"
STAGING: Final = "staging"
_STALE_SECONDS: Final = 24 * 3600


class LeftOut(BaseModel, frozen=True):
    """Numbers of rows that were read and are not in the data set, those rejected by reason."""

    cancelled: int = 0
    diverted: int = 0
    rejected: dict[str, int] = {}


class MonthFile(LeftOut):
    """A published file: `month` "2013-01", `path` relative to the records folder, its rows and checksum.

    What was left out is known by month only where the source has a file for each (`bts`).
    """

    month: str
    path: str
    rows: int
    sha256: str


class Manifest(LeftOut):
    """What the published data set is."""

    format: Literal[1] = 1
    source: str
    created_at: dt.datetime
    rows: int
    first_date: dt.date
    last_date: dt.date
    months: list[MonthFile]
    fingerprint: str
    """Hash over the months' checksums: the same rows have the same fingerprint."""
    carriers: list[str]
    airports: list[str]
    pairs: list[Pair]
    """Routes flown, with their distance (the median, where records differ)."""

    def summary(self) -> dict[str, Any]:
        """The figures that a person or an asset event wants, ready for JSON."""
        wanted = {"source", "rows", "cancelled", "diverted", "rejected", "first_date", "last_date", "fingerprint"}
        return self.model_dump(mode="json", include=wanted)


def schema() -> pa.Schema:
    """Columns and types of the Parquet files: the contract's training row."""
    import pyarrow as pa

    kinds = {"FlightDate": pa.date32(), **dict.fromkeys(NUMBERS, pa.float64()), **dict.fromkeys(TEXTS, pa.string())}
    kinds |= dict.fromkeys(DateParts._fields, pa.int32())
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in sorted(kinds.items())])


def read_manifest(records_dir: Path | None = None) -> Manifest | None:
    """The published data set's manifest; None where nothing was published yet. DataError where it is unreadable."""
    try:
        return read_json((records_dir or get_settings().records) / MANIFEST, Manifest)
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

    months = manifest.months if (manifest := read_manifest(records_dir)) else []
    paths = [str(records_dir / each.path) for each in months if f"{first:%Y-%m}" <= each.month <= f"{last:%Y-%m}"]
    if not paths:
        return pd.DataFrame(columns=columns)
    between = [("FlightDate", ">=", first), ("FlightDate", "<=", last)]
    table = parquet.read_table(paths, columns=columns, filters=between)
    return table.to_pandas().dropna()  # type: ignore[no-any-return]


def sweep(records_dir: Path, *, dry_run: bool = False) -> list[str]:
    """Removes the staging folders of runs that are long over; returns their names."""
    return files.sweep(records_dir / STAGING, _STALE_SECONDS, dry_run=dry_run)


def publish(stagings: Iterable[str | Path], records_dir: Path, held_back: Collection[str] = ()) -> Manifest:
    """Makes the data that `validate` staged the published ones, without the months `held_back`.

    The same data again change nothing. Months of `bts` are added to the months of `bts` that are there; anything else
    replaces the data set. The files of the data set before stay until the next publication, for readers that began
    with them.
    """
    current = read_manifest(records_dir)
    staged = {folder: read_staged(folder) for folder in map(Path, stagings)}
    new = [month for manifest in staged.values() for month in manifest.months if month.month not in held_back]
    for source, target in ((folder / month.path, records_dir / month.path) for folder in staged for month in new):
        if source.is_file():  # a run before this one may have moved it already
            target.parent.mkdir(exist_ok=True)
            move_durably(source, target)
    manifest = _joined(list(staged.values()), new, current, records_dir)
    if current and current.fingerprint == manifest.fingerprint:
        manifest = current
    else:
        _switch(manifest, current, records_dir)
    for folder in staged:
        shutil.rmtree(folder)
    return manifest


def read_staged(folder: Path) -> Manifest:
    """The manifest of a staging folder. Raises DataError where there is none."""
    if manifest := read_manifest(folder):
        return manifest
    raise DataError(f"{folder} is gone (published already, or older than a day): validate again")


def _switch(manifest: Manifest, current: Manifest | None, records_dir: Path) -> None:
    """Writes the manifest, then removes the files that neither it nor the `current` one names."""
    write_atomically(records_dir / MANIFEST, manifest.model_dump_json(indent=1))
    named = {month.path for each in (manifest, current) if each for month in each.months}
    for file in records_dir.glob("*/*.parquet"):
        if str(file.relative_to(records_dir)) not in named:
            file.unlink()


def _joined(staged: list[Manifest], new: list[MonthFile], current: Manifest | None, records_dir: Path) -> Manifest:
    """The data set to publish: the `new` months, of `bts` with those that are published already."""
    if not new:
        if not current:
            raise DataError("no month was there to be fetched, and none is published: choose other months")
        return current
    [source] = {manifest.source for manifest in staged}
    if source != SourceName.BTS:
        [manifest] = staged
        held_back = manifest.rows - sum(month.rows for month in new)
        rejected = Counter({HELD_BACK: held_back, **manifest.rejected})
        return summarize(source, records_dir, new, manifest.model_copy(update={"rejected": +rejected}))
    published = current.months if current and current.source == source else []
    by_month = {month.month: month for month in (*published, *new)}
    new = [by_month[month] for month in sorted(by_month)]
    cancelled, diverted = sum(month.cancelled for month in new), sum(month.diverted for month in new)
    rejected = sum((Counter(month.rejected) for month in new), Counter())
    return summarize(source, records_dir, new, LeftOut(cancelled=cancelled, diverted=diverted, rejected=rejected))


def summarize(source: str, folder: Path, months: list[MonthFile], left_out: LeftOut) -> Manifest:
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
    flights = weights.groupby(["Origin", "Dest"])["count_all"]  # in the order of Distance
    medians = weights[flights.cumsum() >= flights.transform("sum") / 2].drop_duplicates(["Origin", "Dest"])
    fingerprint = hashlib.sha256("".join(f"{month.month} {month.sha256}\n" for month in months).encode())
    return Manifest(
        source=source,
        created_at=dt.datetime.now(dt.UTC),
        rows=rows,
        cancelled=left_out.cancelled,
        diverted=left_out.diverted,
        rejected=dict(sorted(left_out.rejected.items())),
        first_date=routes["FlightDate_min"].min(),
        last_date=routes["FlightDate_max"].max(),
        months=months,
        fingerprint=fingerprint.hexdigest(),
        carriers=sorted(routes["Carrier"].unique()),
        airports=sorted({*routes["Origin"], *routes["Dest"]}),
        pairs=[Pair(**pair) for pair in medians[["Origin", "Dest", "Distance"]].to_dict("records")],
    )


def months_there(source: str, records_dir: Path | None = None) -> list[str]:
    """The published months of a source, e.g. "2013-01"; none where another source's flights are published."""
    manifest = read_manifest(records_dir)
    return [month.month for month in manifest.months] if manifest and manifest.source == source else []


def months_since(today: dt.date, records_dir: Path | None = None) -> str | None:
    """The months of `bts` that have ended since the last one published, as a range; None where there is none."""
    import pandas as pd

    if not (there := months_there(SourceName.BTS, records_dir)):
        return None
    ended = pd.period_range(there[-1], pd.Period(today, "M") - 1, freq="M")[1:]
    return f"{ended[0]}..{ended[-1]}" if len(ended) else None
