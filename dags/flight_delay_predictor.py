"""Starts, watches, repairs, replaces and stops the predictor; flight_delay_predictor.md beside this file explains."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import AssetWatcher, TriggerRule, dag, task

from flight_delays_airflow import flight_delay_predictor as tasks
from flight_delays_airflow.names import AssetName, Tag, asset, dag_args
from flight_delays_airflow.plugin import SparkUiLink
from flight_delays_airflow.trigger import PredictorWatch

ALARM = asset(AssetName.ALARM, watchers=[AssetWatcher(name="predictor_watch", trigger=PredictorWatch())])


@dag(
    dag_display_name="07 Predictor",
    description="Starts, repairs, replaces, restarts or stops the streaming query, and proves it with canaries",
    schedule=asset(AssetName.MODEL) | asset(AssetName.DISTANCES) | ALARM,
    params=tasks.PARAMS,
    dagrun_timeout=dt.timedelta(minutes=30),
    **dag_args(__file__, Tag.PREDICTOR, execution_timeout=dt.timedelta(minutes=10), retries=0),
)
def flight_delay_predictor() -> None:
    # Even where the two before failed: a stop must be possible while Kafka is away, and `act` tells the reason of a
    # failure better. A run that was killed is tried again; one that failed leaves that to the watch, which waits.
    act = task(outlets=[tasks.PREDICTOR], trigger_rule=TriggerRule.ALL_DONE, retries=2)(tasks.act)()
    act.operator.operator_extra_links = [SparkUiLink()]
    [task(tasks.create_topics)(), task(tasks.create_indexes)()] >> act


flight_delay_predictor()
