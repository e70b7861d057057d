"""The two ends of the periodic health check; the Kafka provider's operators stand between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flight_delays.contract import REQUEST_TOPIC, RESPONSE_TOPIC
from flight_delays.errors import plain
from flight_delays.names import KAFKA_CANARY_CONNECTION

if TYPE_CHECKING:
    from flight_delays.settings import Settings


@plain()
def begin(settings: Settings) -> dict[str, Any]:
    """Checks the query; returns `uuids`, a canary's for each partition, and `deployment`, who has to answer them.

    Raises predictor.PredictorError where the query is ill, AirflowSkipException where none is wanted.
    """
    from airflow.providers.apache.kafka.hooks.client import KafkaAdminClientHook
    from airflow.sdk.exceptions import AirflowSkipException

    # Airflow imports what lies in plugins/ into every one of its processes: so only what is needed, when it is.
    from flight_delays import canary, predictor

    deployment = predictor.check(settings)
    if deployment is None:
        raise AirflowSkipException("no predictor was deployed yet, or a person stopped it")
    _forget_the_past()
    admin = KafkaAdminClientHook().get_conn
    found = canary.partitions_of(admin, settings, REQUEST_TOPIC)
    return {"uuids": canary.canary_ids(len(found)), "deployment": deployment.generation}


@plain()
def finish(settings: Settings, begun: dict[str, Any]) -> float:
    """Seconds until the canaries of `begin` were in MongoDB; raises canary.CanaryError where they are not."""
    from flight_delays import canary, store

    db = store.connect(settings)
    return canary.await_canaries(db, begun["uuids"], begun["deployment"], settings.canary_timeout_seconds)


def _forget_the_past() -> None:
    """Sets the sensor's consumer group to the end of the response topic, before the canaries are sent.

    The sensor subscribes only after they are: from `latest` it would miss their answers, from its last run's place it
    would read every answer since, one by one.
    """
    from airflow.providers.apache.kafka.hooks.consume import KafkaConsumerHook
    from confluent_kafka import TopicPartition

    # Not get_consumer(): that subscribes, so joins the group, and the commit may meet a generation of its own making.
    consumer = KafkaConsumerHook([RESPONSE_TOPIC], KAFKA_CANARY_CONNECTION).get_conn
    try:
        found = consumer.list_topics(RESPONSE_TOPIC, timeout=10).topics[RESPONSE_TOPIC].partitions
        places = [TopicPartition(RESPONSE_TOPIC, partition) for partition in found]
        for place in places:
            place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
        consumer.commit(offsets=places, asynchronous=False)
    finally:
        consumer.close()
