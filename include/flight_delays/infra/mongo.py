"""MongoDB: the client and the indexes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import ASCENDING, MongoClient
from pymongo.database import Database

from flight_delays.contract import DATABASE, Collection
from flight_delays.settings import Settings

CLIENT_OPTIONS: dict[str, Any] = {
    "tz_aware": True,
    # An acknowledged write survives: a real MongoDB waits for the journals of a majority; the embedded server accepts
    # both words and commits before it answers anyway.
    "w": "majority",
    "journal": True,
    "serverSelectionTimeoutMS": 2_500,  # the web app says 503 within 3 s
    "connectTimeoutMS": 2_000,
    "socketTimeoutMS": 20_000,  # a scan of 100,000 documents takes the embedded server 2 s
}


@contextmanager
def database(settings: Settings, **client_options: Any) -> Iterator[Database[dict[str, Any]]]:
    """The contract's database at `settings.mongo_uri`, closed at the end of the block; see `connect`."""
    db = connect(settings, **client_options)
    try:
        yield db
    finally:
        db.client.close()


def connect(settings: Settings, **client_options: Any) -> Database[dict[str, Any]]:
    """The same for a service, which keeps its client until `db.client.close()`; nothing is sent before the first use.

    `client_options` are MongoClient's and override ours. Where the server is away, the first use raises pymongo's
    ServerSelectionTimeoutError after 2.5 s.
    """
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongo_uri, **{**CLIENT_OPTIONS, **client_options})
    return client[DATABASE]


def ensure_indexes(db: Database[dict[str, Any]]) -> None:
    """Creates what is missing of the indexes; call before the first write. Raises pymongo's errors.

    We find answers and canaries by `_id` and list them in natural order. The index on the answers' `UUID` is for the
    original's web app, which asks by that; the embedded server answers it through `_id` instead, as each further index
    costs it a quarter of its inserts per second.
    """
    db[Collection.RESPONSES].create_index([("UUID", ASCENDING)])
    db[Collection.DISTANCES].create_index([("Origin", ASCENDING), ("Dest", ASCENDING)], unique=True)
    db[Collection.REJECTED].create_index([("UUID", ASCENDING)])
