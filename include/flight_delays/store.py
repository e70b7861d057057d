"""MongoDB: connecting, indexes, and the look-ups that the web app, the canaries and the console share."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal

from pymongo import ASCENDING, DESCENDING, MongoClient
from pymongo.database import Database

from flight_delays.contract import DATABASE, Collection
from flight_delays.settings import Settings

_CLIENT_OPTIONS: dict[str, Any] = {
    "tz_aware": True,
    # An acknowledged write survives: a real MongoDB waits for the journals of a majority; the embedded server accepts
    # both words and commits before it answers anyway.
    "w": "majority",
    "journal": True,
    "serverSelectionTimeoutMS": 2_500,  # the web app says 503 within 3 s
    "connectTimeoutMS": 2_000,
    "socketTimeoutMS": 20_000,  # a scan of 100,000 documents takes the embedded server 2 s
}


@dataclass(frozen=True)
class Answer:
    """What became of a request: its document of `Collection.RESPONSES` (OK) or of `Collection.REJECTED`."""

    status: Literal["OK", "REJECTED"]
    document: dict[str, Any]


def connect(settings: Settings, **client_options: Any) -> Database[dict[str, Any]]:
    """The contract's database at `settings.mongo_uri`; nothing is sent before the first use.

    `client_options` are MongoClient's and override ours. Where the server is away, the first use raises pymongo's
    ServerSelectionTimeoutError after 2.5 s. Close with `db.client.close()`.
    """
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongo_uri, **{**_CLIENT_OPTIONS, **client_options})
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


def find_answer(db: Database[dict[str, Any]], uuid: str) -> Answer | None:
    """The answer to the request with this UUID (in either case), None while there is none.

    A prediction comes before a rejection: a UUID may have both, when it was sent twice. Two look-ups by index, on the
    embedded server 0.5 ms each, also with 100,000 rejected documents.
    """
    uuid = uuid.lower()
    if (document := db[Collection.RESPONSES].find_one({"_id": uuid})) is not None:
        return Answer("OK", document)
    if (document := db[Collection.REJECTED].find_one({"UUID": uuid})) is not None:
        return Answer("REJECTED", document)
    return None


def last_predictions(db: Database[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The `n` latest answers, newest first.

    Read from the end of the collection in natural order, which is the order of insertion: no index, and a few
    milliseconds on either server, where sorting 100,000 documents takes the embedded one 2 s.
    """
    latest = db[Collection.RESPONSES].find({}).sort("$natural", DESCENDING).limit(n)
    return sorted(latest, key=lambda document: document["PredictedAt"], reverse=True)


def canary_id(uuid: str, deployment: int) -> str:
    """`_id` of a canary's answer: during a swap two deployments answer the same canary, and both answers count."""
    return f"{uuid.lower()}-{deployment}"


def find_canary(db: Database[dict[str, Any]], uuid: str, deployment: int) -> dict[str, Any] | None:
    """This deployment's answer to the canary, None while there is none."""
    return db[Collection.CANARIES].find_one({"_id": canary_id(uuid, deployment)})


def expire_canaries(db: Database[dict[str, Any]], older_than: dt.timedelta) -> int:
    """Deletes the canaries answered longer ago than `older_than`; returns how many.

    The sink calls it: the embedded server has no TTL indexes, and one way for both servers is enough.
    """
    limit = dt.datetime.now(dt.UTC) - older_than
    return db[Collection.CANARIES].delete_many({"PredictedAt": {"$lt": limit}}).deleted_count
