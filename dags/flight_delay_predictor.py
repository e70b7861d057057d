"""Launches, finds again or replaces the streaming predictor; flight_delay_predictor.md beside this file explains."""
# mypy: disable-error-code="call-arg, arg-type"

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

from flight_delays.names import (
    KAFKA_CONNECTION,
    AssetName,
    DagId,
    Tag,
    asset,
    default_args,
)
from flight_delays.settings import get_settings


@dag(
    dag_id=DagId.PREDICTOR.value,
    schedule=asset(AssetName.MODEL) | asset(AssetName.DISTANCES),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=dt.timedelta(minutes=30),
    default_args=default_args(execution_timeout=dt.timedelta(minutes=10), retries=2),
    doc_md=str(Path(__file__).with_suffix(".md")),
    tags=[Tag.PREDICTOR.value],
)
def flight_delay_predictor() -> None:
    @task
    def create_topics() -> list[str]:
        from airflow.providers.apache.kafka.hooks.client import KafkaAdminClientHook

        from flight_delays.topics import ensure_topics

        return ensure_topics(KafkaAdminClientHook(KAFKA_CONNECTION).get_conn, get_settings())

    @task
    def create_indexes() -> None:
        from flight_delays.store import connect, ensure_indexes

        ensure_indexes(connect(get_settings()))

    @task.short_circuit
    def model_exists() -> bool:
        from flight_delays.registry import read_pointer

        return read_pointer(get_settings().models).champion is not None

    @task
    def reconcile() -> dict[str, Any]:
        from flight_delays import predictor

        return predictor.reconcile(get_settings()).summary()

    [create_topics(), create_indexes()] >> model_exists() >> reconcile()


flight_delay_predictor()
