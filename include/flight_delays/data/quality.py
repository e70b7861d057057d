"""The quality report of staged flight records: each month's figures, and its shift against the month before.

`records.validate` has checked each row. The report checks the months: none is much smaller than the one before it, or
has other distributions; the distances between distributions are scipy's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.data import records
from flight_delays.data.sources import NUMBERS
from flight_delays.errors import DataError
from flight_delays.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

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
    staged = {folder: records.read_staged(folder) for folder in map(Path, stagings)}
    files = _files(staged, settings.records)
    report: list[dict[str, Any]] = []
    for month in sorted(month.month for manifest in staged.values() for month in manifest.months):
        held = {entry["month"] for entry in report if entry["held_back"]}
        entry = _entry(month, held, files, settings)
        report.append({**entry, "held_back": bool(entry["failed"]) and month not in accept})
    _log(staged.values(), report)
    if report and all(entry["held_back"] for entry in report):
        refuse_held_back(report)
    return report


def refuse_held_back(report: Collection[dict[str, Any]]) -> None:
    """Raises DataError where a month of the report is held back, and says why and how to accept it."""
    if failed := {entry["month"]: entry["failed"] for entry in report if entry["held_back"]}:
        raise DataError(
            f"{len(failed)} of {len(report)} months fail the quality checks and were not published: {failed}. Look at "
            "these months; if they are right, trigger again with the same params and accept_bad_months "
            f"{json.dumps(list(failed))}"
        )


def _files(staged: Mapping[Path, records.Manifest], records_dir: Path) -> dict[str, Path]:
    """The file of each staged month, and of each published month of the same source."""
    current = records.read_manifest(records_dir)
    published = (
        {records_dir: current} if current and current.source in {each.source for each in staged.values()} else {}
    )
    every = {**published, **staged}
    return {month.month: folder / month.path for folder, manifest in every.items() for month in manifest.months}


def _entry(month: str, held: Collection[str], files: Mapping[str, Path], settings: Settings) -> dict[str, Any]:
    """The entry of a month, compared with the month before or, where it is unlike that, the last one not in `held`."""
    import pandas as pd

    before = last = str(pd.Period(month) - 1)
    while last in held:
        last = str(pd.Period(last) - 1)
    candidates = [_compare(month, each, files, settings) for each in dict.fromkeys((before, last))]
    return next((each for each in candidates if not each["failed"]), candidates[0])


def _compare(month: str, before: str, files: Mapping[str, Path], settings: Settings) -> dict[str, Any]:
    """The entry of a month, compared with the month `before` where `files` has it."""
    rows, earlier = _read(files[month]), _read(files[before]) if before in files else None
    shift = {} if earlier is None else distances(rows, earlier, NUMBERS, _CATEGORIES)
    limit, share, expected = settings.max_month_shift, settings.min_month_rows, 0 if earlier is None else len(earlier)
    nulls, duplicates = int(rows.isna().sum().sum()), int(rows.duplicated(list(records.KEY)).sum())
    failed = [f"{count} {name}" for name, count in (("nulls", nulls), ("duplicates", duplicates)) if count]
    if len(rows) < share * expected:
        failed.append(f"at least {share:.0%} of the {expected:,} rows of the month before are expected")
    failed += [f"{name} shifted by {far:.2f}, more than {limit:.2f}" for name, far in shift.items() if not far <= limit]
    return {
        "month": month,
        "before": before if before in files else None,
        "rows": len(rows),
        "nulls": nulls,
        "duplicates": duplicates,
        "ranges": {name: [float(rows[name].min()), float(rows[name].max())] for name in NUMBERS},
        "shift": {name: round(value, 4) for name, value in shift.items()},
        "failed": failed,
    }


def _log(staged: Iterable[records.Manifest], report: Iterable[dict[str, Any]]) -> None:
    import pandas as pd

    for manifest in staged:
        log.info(
            "read from %s: %s flown, %s cancelled, %s diverted, rejected: %s",
            ", ".join(month.month for month in manifest.months),
            *(f"{count:,}" for count in (manifest.rows, manifest.cancelled, manifest.diverted)),
            manifest.rejected or "none",
        )
    lines = [
        {
            **{name: entry[name] for name in ("month", "rows", "nulls", "duplicates", "before")},
            **{name: f"{low:g}..{high:g}" for name, (low, high) in entry["ranges"].items()},
            "shift": ", ".join(f"{name} {value:.2f}" for name, value in entry["shift"].items()) or "-",
            "verdict": "; ".join(entry["failed"]) or "good",
        }
        for entry in report
    ]
    if lines:
        table = pd.DataFrame(lines).to_string(index=False)
        log.info("quality by month, with the shift (0..1) against the month before:\n%s", table)


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
