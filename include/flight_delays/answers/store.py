"""The look-ups and removals of answers that the web app, the sink and the console share."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal

from pymongo import DESCENDING
from pymongo.database import Database

from flight_delays.contract import Collection


@dataclass(frozen=True)
class Answer:
    """The answer to a request: its document of `Collection.RESPONSES` (OK) or of `Collection.REJECTED`."""

    status: Literal["OK", "REJECTED"]
    document: dict[str, Any]


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


def expire_canaries(db: Database[dict[str, Any]], older_than: dt.timedelta) -> int:
    """Deletes the canaries answered longer ago than `older_than`; returns how many.

    The sink calls it: the embedded server has no TTL indexes, and one way for both servers is enough.
    """
    limit = dt.datetime.now(dt.UTC) - older_than
    return db[Collection.CANARIES].delete_many({"PredictedAt": {"$lt": limit}}).deleted_count
