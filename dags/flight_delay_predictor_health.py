"""Proves every 5 minutes that predictions come back; flight_delay_predictor_health.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type, index"

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from airflow.providers.apache.kafka.operators.produce import ProduceToTopicOperator
from airflow.providers.apache.kafka.sensors.kafka import AwaitMessageSensor
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import TriggerRule, dag, task

from flight_delays.contract import REQUEST_TOPIC, RESPONSE_TOPIC
from flight_delays.names import KAFKA_CANARY_CONNECTION, KAFKA_CONNECTION, DagId, Tag, default_args
from flight_delays.settings import get_settings


@dag(
    dag_id=DagId.HEALTH.value,
    schedule=dt.timedelta(minutes=5),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(minutes=10),
    default_args=default_args(execution_timeout=dt.timedelta(minutes=3), retries=0),  # the next run is the retry
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.PREDICTOR.value, Tag.HEALTH.value],
)
def flight_delay_predictor_health() -> None:
    @task
    def query_is_active() -> dict[str, Any]:
        from flight_delays_airflow import health

        return health.begin(get_settings())

    check = query_is_active()
    send = ProduceToTopicOperator(
        task_id="send_canaries",
        kafka_config_id=KAFKA_CONNECTION,
        topic=REQUEST_TOPIC,
        producer_function="flight_delays.canary.canary_messages",
        producer_function_kwargs={"uuids": check["uuids"]},
    )
    answered = AwaitMessageSensor(
        task_id="canaries_answered",
        kafka_config_id=KAFKA_CANARY_CONNECTION,
        topics=[RESPONSE_TOPIC],
        apply_function="flight_delays.canary.all_answered",
        apply_function_kwargs={"waiting": check["uuids"], "deployment": check["deployment"]},
        poll_interval=0,
        commit_offset=False,
        timeout=get_settings().canary_timeout_seconds,
    )

    @task
    def canaries_stored(begun: dict[str, Any]) -> float:
        from flight_delays_airflow import health

        return health.finish(get_settings(), begun)

    stored = canaries_stored(check)
    repair = TriggerDagRunOperator(
        task_id="repair", trigger_dag_id=DagId.PREDICTOR.value, trigger_rule=TriggerRule.ONE_FAILED
    )
    check >> send >> answered >> stored >> EmptyOperator(task_id="healthy")
    [check, send, answered, stored] >> repair


flight_delay_predictor_health()
