"""The Kafka topics of the line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flight_delays.contract import TOPICS

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from flight_delays.settings import Settings


def ensure_topics(admin: AdminClient, settings: Settings) -> list[str]:
    """Creates the topics that are not there yet and returns their names; those that are there stay as they are.

    Raises confluent_kafka.KafkaException where the brokers cannot be reached or refuse.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    retention = str(int(settings.topic_retention_days * 24 * 3600 * 1000))
    wanted = [
        NewTopic(
            topic,
            num_partitions=settings.topic_partitions,
            replication_factor=settings.topic_replication,
            config={"retention.ms": retention},
        )
        for topic in TOPICS
    ]
    created = []
    for topic, future in admin.create_topics(wanted, request_timeout=15).items():
        try:
            future.result()
            created.append(topic)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return created
