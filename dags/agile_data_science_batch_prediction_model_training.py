"""Trains, judges and promotes the model; agile_data_science_batch_prediction_model_training.md explains."""

from __future__ import annotations

import datetime as dt

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, dag, task

from flight_delays.model import promotion
from flight_delays.settings import PROJECT, get_settings
from flight_delays_airflow import agile_data_science_batch_prediction_model_training as tasks
from flight_delays_airflow.names import SPARK_CONNECTION, AssetName, Tag, asset, dag_args

SETTINGS = get_settings()
# With `run_immediately=False` the first unpausing starts a run at once, up to 17 h after a scheduled time.
WEEKLY = CronTriggerTimetable("0 4 * * 1", timezone="UTC", run_immediately=dt.timedelta(minutes=1))
APPROVAL = dt.timedelta(hours=SETTINGS.approval_hours if SETTINGS.require_approval else 0)


@dag(
    dag_display_name="05 Model training",
    description="Trains a random forest with Spark, judges it, and promotes it where it passes the checks",
    schedule=AssetOrTimeSchedule(timetable=WEEKLY, assets=[asset(AssetName.CONDITIONS)]),
    params=tasks.PARAMS,
    dagrun_timeout=dt.timedelta(hours=4) + APPROVAL,
    **dag_args(__file__, Tag.TRAINING, execution_timeout=dt.timedelta(hours=3), retries=1),
)
def agile_data_science_batch_prediction_model_training() -> None:
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
    promoted = task(outlets=[tasks.MODEL])(tasks.promote)(passed)
    train >> version
    if SETTINGS.require_approval:
        passed >> tasks.approval(APPROVAL) >> promoted


agile_data_science_batch_prediction_model_training()
