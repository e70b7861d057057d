"""Makes an older model the champion again; flight_delay_model_rollback.md beside this file explains."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from airflow.sdk import Metadata, Param, dag, task

from flight_delays.model import promotion
from flight_delays.model.registry import VERSION_PATTERN
from flight_delays_airflow.names import AssetName, Tag, asset, dag_args

MODEL = asset(AssetName.MODEL)
VERSION = Param(
    promotion.PREVIOUS,
    type="string",
    pattern=rf"^\s*(previous|{VERSION_PATTERN})\s*$",
    title="Model version",
    description="`previous`, or a version that `make models` lists",
)


@dag(
    dag_display_name="06 Model rollback",
    description="Makes the previous model, or a version of your choice, the champion again",
    schedule=None,
    params={"version": VERSION},
    dagrun_timeout=dt.timedelta(hours=1),
    **dag_args(__file__, Tag.TRAINING, execution_timeout=dt.timedelta(minutes=10)),
)
def flight_delay_model_rollback() -> None:
    @task(outlets=[MODEL])
    def roll_back(params: dict[str, Any]) -> Iterator[Metadata]:
        yield Metadata(MODEL, promotion.roll_back(params))

    roll_back()


flight_delay_model_rollback()
