"""What the predictor runs. With `query`, the only module of this package that knows of flights.

To supervise another stream, replace these names and functions (docs/architecture.md).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flight_delays.contract import (
    ANSWER_PLACE,
    DEAD_LETTER_PLACE,
    DEAD_LETTER_TOPIC,
    RESPONSE_TOPIC,
    Collection,
    Request,
    date_parts,
    format_timestamp,
    read_fields,
)

if TYPE_CHECKING:
    from confluent_kafka import Message
    from pymongo.database import Database
    from pyspark.ml import PipelineModel
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

    from flight_delays.predictor.state import Deployment
    from flight_delays.settings import Settings

QUERY_NAME: Final = "flight_delay_predictor"
PLACES: Final = {RESPONSE_TOPIC: ANSWER_PLACE, DEAD_LETTER_TOPIC: DEAD_LETTER_PLACE}
"""Topic of answers -> the two fields of an answer that name the partition and the offset of its request."""
CANARY: Final[dict[str, Any]] = {
    "Carrier": "UA",
    "FlightDate": "2013-12-20",
    "FlightNum": "1",
    "Origin": "EWR",
    "Dest": "SFO",
    "DepDelay": 5.0,
    "Distance": 2565.0,
}
"""A flight of a route that the training data know."""


@dataclass(frozen=True)
class Answer:
    """What a message says of the request that it answers: its place, its UUID, and the deployment that answered."""

    partition: int
    offset: int | None
    uuid: str | None
    deployment: int
    """0 where the message names none."""

    @property
    def place(self) -> tuple[int, int] | None:
        """Partition and offset, where it names both."""
        return None if self.offset is None else (self.partition, self.offset)


def start_query(
    spark: SparkSession, settings: Settings, deployment: Deployment, model: PipelineModel, starting_offsets: str
) -> StreamingQuery:
    """Starts the deployment's query, named `QUERY_NAME`; its checkpoint is new and begins at `starting_offsets`."""
    from flight_delays.predictor import query

    query.configure(spark)
    requests = query.read_requests(spark, settings, starting_offsets)
    responses = query.respond(requests, model, deployment.version, deployment.generation)
    return query.start(responses, settings, settings.checkpoints / deployment.checkpoint, QUERY_NAME)


def request_message(uuid: str, **fields: Any) -> str:
    """The request as JSON: `fields` of `contract.Request`, without the date parts, which follow from `FlightDate`.

    `Timestamp` is now. Raises pydantic's ValidationError where a field breaks the contract.
    """
    now = format_timestamp(dt.datetime.now(dt.UTC), timespec="milliseconds")
    parts = date_parts(dt.date.fromisoformat(fields["FlightDate"]))
    return Request(UUID=uuid, Timestamp=now, **fields, **parts._asdict()).model_dump_json(exclude_none=True)


def canary_message(uuid: str) -> str:
    """The request of a canary with this UUID."""
    return request_message(uuid, **CANARY, Canary=True)


def read_answer(message: Message) -> Answer | None:
    """What a message of one of the `PLACES` answers; None where it is no answer: anybody may write to a topic."""
    if message.error() is not None:
        return None
    fields = read_fields(message.value())
    partition_field, offset_field = PLACES[message.topic()]
    partition, deployment = fields.get(partition_field), fields.get("Deployment", 0)
    offset, uuid = fields.get(offset_field), fields.get("UUID")
    if type(partition) is not int or type(deployment) is not int:
        return None
    offset, uuid = offset if type(offset) is int else None, uuid if type(uuid) is str else None
    return Answer(partition=partition, offset=offset, uuid=uuid, deployment=deployment)


def canary_id(uuid: str, deployment: int) -> str:
    """`_id` of a canary's answer: during a swap two deployments answer the same canary, and both answers count."""
    return f"{uuid.lower()}-{deployment}"


def find_canary(db: Database[dict[str, Any]], uuid: str, deployment: int) -> dict[str, Any] | None:
    """This deployment's stored answer to the canary; None while there is none."""
    return db[Collection.CANARIES].find_one({"_id": canary_id(uuid, deployment)})
