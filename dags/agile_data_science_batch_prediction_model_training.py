"""Wiring of the DAG `agile_data_science_batch_prediction_model_training`; the .md beside it explains it."""
# mypy: disable-error-code="call-arg, arg-type, index"
# TaskFlow hands context arguments (params, run_id) to a task itself, and results on as XComArg.

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Metadata, Param, dag, task

from flight_delays.contract import DagId
from flight_delays.model import promotion
from flight_delays.settings import PROJECT, get_settings
from flight_delays_airflow import agile_data_science_batch_prediction_model_training as tasks
from flight_delays_airflow.names import SPARK_CONNECTION, AssetName, Tag, asset, default_args

SETTINGS = get_settings()
MODEL = asset(AssetName.MODEL)
# With `run_immediately=False` the first unpausing starts a run at once, up to 17 h after a scheduled time.
WEEKLY = CronTriggerTimetable("0 4 * * 1", timezone="UTC", run_immediately=dt.timedelta(minutes=1))
PARAMS = {
    "trees": Param(20, type="integer", minimum=1, maximum=500, description="Number of trees"),
    "depth": Param(10, type="integer", minimum=1, maximum=20, description="Maximum tree depth"),
    "holdout_months": Param(2, type="integer", minimum=1, maximum=12, description="Number of months in the holdout"),
    "seed": Param(42, type="integer", minimum=0, maximum=2**31 - 1, description="Random seed"),
    "force": Param(False, type="boolean", description="Whether to promote a model that fails the checks"),
}
APPROVAL = dt.timedelta(hours=SETTINGS.approval_hours if SETTINGS.require_approval else 0)


@dag(
    DagId.TRAINING.value,
    schedule=AssetOrTimeSchedule(timetable=WEEKLY, assets=[asset(AssetName.CONDITIONS)]),
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    default_args=default_args(execution_timeout=dt.timedelta(hours=3), retries=1),
    dagrun_timeout=dt.timedelta(hours=4) + APPROVAL,
    tags=[Tag.TRAINING.value],
    doc_md=str(Path(__file__).with_suffix(".md")),
)
def build() -> None:
    @task(outlets=[MODEL])
    def promote(version: str) -> Iterator[Metadata]:
        yield Metadata(MODEL, promotion.promote(version))

    prepared = task(promotion.prepare)()
    train = SparkSubmitOperator(
        task_id="train",
        name="flight-delays-training",
        conn_id=SPARK_CONNECTION,
        application=str(PROJECT / "spark_jobs" / "train_model.py"),
        application_args=prepared["arguments"],
        driver_memory=SETTINGS.spark_driver_memory,
        # The driver's own ports; in local mode it makes the secret itself, on a cluster that is its administrator's.
        conf={"spark.authenticate": "true"} if SETTINGS.spark_master.startswith("local") else None,
    )
    version = task(promotion.register)(prepared["staged"])
    passed = task(tasks.judge)(version)
    promoted = promote(passed)
    train >> version
    if SETTINGS.require_approval:
        passed >> tasks.approval(APPROVAL) >> promoted


build()
