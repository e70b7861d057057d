"""Proves every 5 minutes that predictions come back; flight_delay_predictor_health.md beside this file explains."""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.providers.apache.kafka.operators.produce import ProduceToTopicOperator
from airflow.sdk import AssetAlias, TriggerRule, dag, task

from flight_delays.contract import REQUEST_TOPIC
from flight_delays_airflow.names import ALARM_ALIAS, KAFKA_CONNECTION, Tag, dag_args

ALARM = AssetAlias(ALARM_ALIAS)


@dag(
    dag_display_name="08 Predictor health",
    description="Sends a canary through each partition every 5 minutes, and raises the alarm where none comes back",
    schedule=dt.timedelta(minutes=5),
    dagrun_timeout=dt.timedelta(minutes=10),
    # Without retries: the next run is the retry.
    **dag_args(__file__, Tag.PREDICTOR, Tag.HEALTH, execution_timeout=dt.timedelta(minutes=3), retries=0),
)
def flight_delay_predictor_health() -> None:
    @task.short_circuit(outlets=[ALARM])
    def query_is_active(outlet_events: Any) -> dict[str, Any]:  # each key becomes an XCom
        from flight_delays_airflow import flight_delay_predictor_health as tasks

        return tasks.query_is_active(outlet_events[ALARM])

    # Also where Kafka took no canary: then none was stored, and that is the alarm.
    @task(outlets=[ALARM], trigger_rule=TriggerRule.NONE_SKIPPED)
    def canaries_stored(sent: dict[str, Any], outlet_events: Any) -> float | None:
        from flight_delays_airflow import flight_delay_predictor_health as tasks

        return tasks.canaries_stored(outlet_events[ALARM], sent)

    canaries = query_is_active()
    send_canaries = ProduceToTopicOperator(
        task_id="send_canaries",
        kafka_config_id=KAFKA_CONNECTION,
        topic=REQUEST_TOPIC,
        producer_function="flight_delays.predictor.canary.canary_messages",
        producer_function_kwargs={"uuids": canaries["uuids"]},
    )
    send_canaries >> canaries_stored(canaries)


flight_delay_predictor_health()
