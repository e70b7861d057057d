"""The Kafka topics: their settings, and which topic it is that bears a name."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from flight_delays.contract import TOPICS
from flight_delays.infra.kafka import client_options, no_broker

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

CONFIG: Final = {"compression.type": "uncompressed", "message.timestamp.type": "LogAppendTime"}
"""What every topic has, also one of an earlier release.

A record's time is the broker's. With a client's, that client's clock would decide how long messages are kept, and what
the status says of latency and silence; one far enough ahead overflows in Spark's source.

A record's limit counts compressed bytes: 150 MB of one letter take a few KB, and end the JVM that reads them. With this
setting the broker unpacks a batch, and refuses one above `max.message.bytes`.
"""


def ensure_topics(admin: AdminClient, settings: Settings) -> list[str]:
    """Creates the topics that are not there yet, and returns their names; the others get `CONFIG`.

    The topics of an external Kafka are not altered: the log names what they lack. Raises confluent_kafka.KafkaException
    where the brokers cannot be reached or refuse.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

    config = {"retention.ms": str(int(settings.topic_retention_days * 24 * 3600 * 1000)), **CONFIG}
    places = {"num_partitions": settings.topic_partitions, "replication_factor": settings.topic_replication}
    wanted = [NewTopic(topic, config=config, **places) for topic in TOPICS]
    created = []
    for topic, future in admin.create_topics(wanted, request_timeout=15).items():
        try:
            future.result()
            created.append(topic)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    for topic in (topic for topic in TOPICS if topic not in created):
        if settings.kafka_is_external:
            _warn(admin, topic)
            continue
        entries = [ConfigEntry(*each, incremental_operation=AlterConfigOpType.SET) for each in CONFIG.items()]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        try:
            admin.incremental_alter_configs([resource], request_timeout=15)[resource].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # another client has just created it
                raise
    return created


def _warn(admin: AdminClient, topic: str) -> None:
    """Logs what the topic lacks of `CONFIG`."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType

    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        found = admin.describe_configs([resource], request_timeout=15)[resource].result()
    except KafkaException as error:
        log.warning("Kafka does not tell the settings of the topic %s: %s", topic, error.args[0].str())
        return
    values = {name: entry.value for name, entry in found.items()}
    if lacking := ",".join(f"{name}={value}" for name, value in CONFIG.items() if values.get(name) != value):
        log.warning(
            "The topic %s lacks %s: a compressed record of some KB, or its time, can stop readers. Set it: "
            "kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s",
            *(topic, lacking, topic, lacking),
        )


def topic_id(settings: Settings, topic: str) -> str:
    """The id of the topic that bears this name now: another one once it was deleted and recreated.

    Empty where the broker gives none (before Kafka 2.8). Raises BrokerError.
    """
    from confluent_kafka import KafkaException, TopicCollection
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(client_options(settings))
    try:
        found = admin.describe_topics(TopicCollection([topic]), request_timeout=10)[topic].result().topic_id
    except KafkaException as error:
        raise no_broker(settings, error) from error
    zero = found is None or not (found.get_most_significant_bits() or found.get_least_significant_bits())
    return "" if zero else str(found)
