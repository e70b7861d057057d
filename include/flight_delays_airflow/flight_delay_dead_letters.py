"""Tasks of the DAG flight_delay_dead_letters; `flight_delays.answers.dead_letters` does the work."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from flight_delays.contract import REQUEST_TOPIC, Collection
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import KAFKA_CANARY_CONNECTION, KAFKA_CONNECTION


def report(params: Mapping[str, Any]) -> dict[str, Any]:
    """What was rejected in the last `hours`; see dead_letters.report."""
    from flight_delays.answers import dead_letters

    with database() as db:
        documents = db[Collection.REJECTED]
        return dead_letters.report(documents, _since(params))


def replay(params: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the chosen requests back on their topic; see dead_letters.replay."""
    from airflow.providers.apache.kafka.hooks.consume import KafkaConsumerHook
    from airflow.providers.apache.kafka.hooks.produce import KafkaProducerHook

    from flight_delays.answers import dead_letters

    with database() as db:
        documents = db[Collection.REJECTED]
        filters = {name: params[name] for name in ("reasons", "uuids", "ids", "limit")}
        chosen = dead_letters.choose(documents, since=_since(params), **filters)
        # Not get_consumer(): that would join the connection's group. This one reads at places of its own.
        consumer = KafkaConsumerHook([REQUEST_TOPIC], KAFKA_CANARY_CONNECTION).get_conn
        try:
            producer = KafkaProducerHook(KAFKA_CONNECTION).get_producer()
            options = {name: params[name] for name in ("changes", "again")}
            return dead_letters.replay(documents, chosen, consumer, producer, **options)
        finally:
            consumer.close()


def _since(params: Mapping[str, Any]) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(hours=params["hours"])
