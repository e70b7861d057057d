"""Airflow's connection to MongoDB, as the DAGs' tasks use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flight_delays.contract import DATABASE
from flight_delays.errors import ServiceError, sentence
from flight_delays_airflow.names import MONGO_CONNECTION

if TYPE_CHECKING:
    from pymongo.database import Database


@contextmanager
def database() -> Iterator[Database[dict[str, Any]]]:
    """The project's database; its times come with their zone, UTC. Closed when the task leaves the block.

    Raises ServiceError, one sentence, in place of pymongo's errors, whose text would fill a task's log.
    """
    from airflow.providers.mongo.hooks.mongo import MongoHook
    from bson.codec_options import CodecOptions
    from pymongo.errors import PyMongoError

    try:
        with MongoHook(MONGO_CONNECTION) as hook:
            yield hook.get_conn().get_database(DATABASE, CodecOptions(tz_aware=True))
    except PyMongoError as error:
        raise ServiceError(f"MongoDB: {sentence(error)}") from None
