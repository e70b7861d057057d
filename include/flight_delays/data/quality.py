"""The quality report of staged flight records: each month by itself, and against the month before.

pandera checks the rows once more, now as they will be published and as a whole (types, nulls, ranges, duplicates),
and whether a month fits the one before; the distances between distributions are scipy's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.data import records
from flight_delays.errors import DataError
from flight_delays.settings import Settings, get_settings

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

log = logging.getLogger(__name__)

_NUMBERS: Final = ("DepDelay", "ArrDelay", "Distance")
_CATEGORIES: Final = ("Carrier", "Origin", "Dest")


def check_months(
    stagings: Iterable[str | Path], settings: Settings, *, accept: Collection[str] = ()
) -> list[dict[str, Any]]:
    """One entry a staged month, in the order of time, ready for JSON; also logged as a table.

    `max_month_shift` bounds the distance 0..1 to the month before (Kolmogorov-Smirnov for numbers, Jensen-Shannon for
    categories), `min_month_rows` the share of its rows that a month must have. A month that fails is held back
    (`held_back`), unless it is in `accept`. The month after it is compared with it, too: of a change that stays, only
    the first month is held back. Where it is unlike that one, it is compared with the last month that was not held
    back. Raises DataError where all months are held back.
    """
    import pandas as pd

    records_dir, limits = settings.records, {"max_shift": settings.max_month_shift, "min_rows": settings.min_month_rows}
    staged = [(folder, manifest) for folder in map(Path, stagings) if (manifest := records.read_manifest(folder))]
    current = records.read_manifest(records_dir)
    published = [(records_dir, current)] if current and staged and current.source == staged[0][1].source else []
    files = {
        month.month: folder / month.path for folder, manifest in [*published, *staged] for month in manifest.months
    }
    entries: list[dict[str, Any]] = []
    held: set[str] = set()
    for month in sorted(month.month for _, manifest in staged for month in manifest.months):
        rows = _read(files[month])
        before = last = str(pd.Period(month) - 1)
        while last in held:
            last = str(pd.Period(last) - 1)
        for each in dict.fromkeys((before, last)):
            found = _month(rows, _read(files[each]) if each in files else None, **limits)
            if each == before or not found["failed"]:
                entry = {"month": month, "before": each if each in files else None, **found}
            if not found["failed"]:
                break
        entry["held_back"] = bool(entry["failed"]) and month not in accept
        held |= {month} if entry["held_back"] else set()
        entries.append(entry)
    columns = ["month", "rows", "nulls", "duplicates", "before", "shift"]
    for _, manifest in staged:
        log.info(
            "read from %s: %s flown, %s cancelled, %s diverted, set aside: %s",
            ", ".join(month.month for month in manifest.months),
            *(f"{count:,}" for count in (manifest.rows, manifest.cancelled, manifest.diverted)),
            manifest.rejected or "none",
        )
    if entries:
        table = pd.DataFrame(entries)
        ranges = pd.DataFrame(
            [{name: f"{low:g}..{high:g}" for name, (low, high) in entry["ranges"].items()} for entry in entries]
        )
        shift = table["shift"].map(lambda each: ", ".join(f"{name} {value:.2f}" for name, value in each.items()) or "-")
        wrong = table["failed"].map(lambda each: "; ".join(each) or "good").rename("verdict")
        shown = pd.concat([table[columns[:-1]], ranges, shift, wrong], axis=1)
        log.info("quality by month, with the shift (0..1) against the month before:\n%s", shown.to_string(index=False))
    if entries and len(held) == len(entries):
        refuse_held_back(entries)
    return entries


def publish(stagings: Iterable[str] | None, report: Collection[dict[str, Any]]) -> dict[str, Any]:
    """Publishes the months that the report does not hold back, as a task; returns the summary, with the report."""
    held = [entry["month"] for entry in report if entry["held_back"]]
    return {**records.publish(stagings or (), get_settings().records, held).summary(), "quality": report}


def refuse_held_back(report: Collection[dict[str, Any]]) -> None:
    """Raises DataError where a month of the report is held back, and says why and how to accept it."""
    if failed := {entry["month"]: entry["failed"] for entry in report if entry["held_back"]}:
        raise DataError(
            f"{len(failed)} of {len(report)} months fail the quality checks and were not published: {failed}. Look at "
            "these months; if they are right, trigger again with the same params and accept_bad_months "
            f"{json.dumps(list(failed))}"
        )


def schema(before_rows: int, shift: dict[str, float], *, max_shift: float, min_rows: float) -> pa.DataFrameSchema:
    """What a month must fulfil: the contract's types and ranges, each flight once, and a likeness to the month before.

    `shift` holds its distances to the month before, which had `before_rows` rows (0: there is none).
    """
    import pandera.pandas as pa

    columns = {name: pa.Column(float, pa.Check.in_range(*bounds)) for name, bounds in records.NUMBERS.items()}
    columns |= {
        name: pa.Column(checks=pa.Check(_matches(pattern), name=f"matches {pattern}"))
        for name, pattern in records.TEXTS.items()
    }
    columns |= {
        name: pa.Column("int32", pa.Check.in_range(1, last))
        for name, last in (("DayOfMonth", 31), ("DayOfWeek", 7), ("DayOfYear", 366))
    }
    columns["FlightDate"] = pa.Column("datetime64[ms]")
    checks = [
        pa.Check(
            lambda rows: len(rows) >= min_rows * before_rows,
            name=f"at least {min_rows:.0%} of the {before_rows:,} rows of the month before",
        )
    ]
    checks += [
        pa.Check(
            lambda _, value=value: value <= max_shift, name=f"{name} shifted by {value:.2f}, more than {max_shift:.2f}"
        )
        for name, value in shift.items()
    ]
    return pa.DataFrameSchema(columns, checks=checks, unique=list(records.KEY), strict=True)


def _matches(pattern: str) -> Any:
    # few values, many rows: each value is looked at once
    return lambda texts: texts.cat.remove_unused_categories().cat.categories.str.fullmatch(pattern).all()


def _month(rows: pd.DataFrame, before: pd.DataFrame | None, *, max_shift: float, min_rows: float) -> dict[str, Any]:
    from pandera.errors import SchemaErrors

    shift = {} if before is None else distances(rows, before, _NUMBERS, _CATEGORIES)
    failed: list[str] = []
    try:
        expected = schema(0 if before is None else len(before), shift, max_shift=max_shift, min_rows=min_rows)
        expected.validate(rows, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        counts = cases.groupby([cases["column"].astype(str), cases["check"].astype(str)], sort=False).size()
        failed = [
            check if column == "None" else f"{column}: {check} ({count})" for (column, check), count in counts.items()
        ]
    return {
        "rows": len(rows),
        "nulls": int(rows.isna().sum().sum()),
        "duplicates": int(rows.duplicated(list(records.KEY)).sum()),
        "ranges": {name: [float(rows[name].min()), float(rows[name].max())] for name in _NUMBERS},
        "shift": {name: round(value, 4) for name, value in shift.items()},
        "failed": failed,
    }


def distances(
    rows: pd.DataFrame, before: pd.DataFrame, numbers: Iterable[str], categories: Iterable[str]
) -> dict[str, float]:
    """How far two sets of flights differ in each column, 0 (alike) .. 1 (nothing in common).

    For numbers the largest gap between the cumulative distributions (Kolmogorov-Smirnov), for categories the
    Jensen-Shannon distance to base 2.
    """
    import pandas as pd
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import ks_2samp

    shift = {name: float(ks_2samp(rows[name], before[name], method="asymp").statistic) for name in numbers}
    for name in categories:
        counts = pd.concat([each[name].astype(str).value_counts() for each in (rows, before)], axis=1).fillna(0)
        shift[name] = float(jensenshannon(counts.iloc[:, 0], counts.iloc[:, 1], base=2))
    return shift


def _read(path: Path) -> pd.DataFrame:
    from pyarrow import parquet

    return parquet.read_table(path).to_pandas(strings_to_categorical=True, date_as_object=False)  # type: ignore[no-any-return]
