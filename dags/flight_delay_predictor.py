"""Starts, watches, repairs, replaces and stops the predictor; flight_delay_predictor.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type, attr-defined"
# TaskFlow hands context arguments (params, run_id, triggering_asset_events) to a task itself.

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import AssetWatcher, Metadata, Param, TriggerRule, dag, task

from flight_delays.contract import DagId
from flight_delays.model.registry import VERSION_PATTERN
from flight_delays.predictor.state import Action
from flight_delays_airflow.names import AssetName, Tag, asset, default_args
from flight_delays_airflow.plugin import SparkUiLink
from flight_delays_airflow.trigger import PredictorWatch

PREDICTOR = asset(AssetName.PREDICTOR)
ALARM = asset(AssetName.ALARM, watchers=[AssetWatcher(name="predictor_watch", trigger=PredictorWatch())])
PARAMS = {
    "action": Param(
        Action.RECONCILE.value,
        type="string",
        enum=[action.value for action in Action],
        description="Action; only start, restart and deploy end a stop",
    ),
    "version": Param(
        None,
        type=["null", "string"],
        pattern=f"^{VERSION_PATTERN}$",
        description="Version for `deploy`, as `make models` lists it",
    ),
}


@dag(
    dag_id=DagId.PREDICTOR.value,
    schedule=asset(AssetName.MODEL) | asset(AssetName.DISTANCES) | ALARM,
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    dagrun_timeout=dt.timedelta(minutes=30),
    default_args=default_args(execution_timeout=dt.timedelta(minutes=10), retries=0),
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.PREDICTOR.value],
)
def flight_delay_predictor() -> None:
    @task
    def create_topics() -> list[str]:
        from flight_delays_airflow import flight_delay_predictor as tasks

        return tasks.create_topics()

    @task
    def create_indexes() -> None:
        from flight_delays_airflow import flight_delay_predictor as tasks

        tasks.create_indexes()

    # Whatever became of the two before: a stop must be possible while Kafka is away, and the reason of a failure is
    # better told here. A run that was killed is tried again; one that failed leaves that to the watch, which waits.
    @task(outlets=[PREDICTOR], trigger_rule=TriggerRule.ALL_DONE, retries=2)
    def act(params: dict[str, Any], run_id: str, triggering_asset_events: Any) -> Iterator[Metadata]:
        from flight_delays_airflow import flight_delay_predictor as tasks

        run = f"{DagId.PREDICTOR.value}/{run_id}"
        yield Metadata(PREDICTOR, tasks.reconcile(params, run, triggering_asset_events))

    done = act()
    done.operator.operator_extra_links = [SparkUiLink()]
    [create_topics(), create_indexes()] >> done


flight_delay_predictor()
