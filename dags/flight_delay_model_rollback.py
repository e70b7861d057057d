"""Wiring of the DAG `flight_delay_model_rollback`; the .md beside it explains it."""
# mypy: disable-error-code="call-arg"
# TaskFlow hands context arguments (params) to a task itself.

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import Metadata, Param, dag, task

from flight_delays.contract import DagId
from flight_delays.model import promotion
from flight_delays.model.registry import VERSION_PATTERN
from flight_delays_airflow.names import AssetName, Tag, asset, default_args

MODEL = asset(AssetName.MODEL)
VERSION = Param(
    promotion.PREVIOUS,
    type="string",
    pattern=rf"^\s*(previous|{VERSION_PATTERN})\s*$",
    description="`previous`, or a version that `make models` lists",
)


@dag(
    DagId.ROLLBACK.value,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={"version": VERSION},
    default_args=default_args(execution_timeout=dt.timedelta(minutes=10)),
    dagrun_timeout=dt.timedelta(hours=1),
    tags=[Tag.TRAINING.value],
    doc_md=str(Path(__file__).with_suffix(".md")),
)
def build() -> None:
    @task(outlets=[MODEL])
    def roll_back(params: dict[str, Any]) -> Iterator[Metadata]:
        yield Metadata(MODEL, promotion.roll_back(params))

    roll_back()


build()
