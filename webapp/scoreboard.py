"""The scoreboard: replays, and the scores of their predictions."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any, Final

import pymongo
from flask import Blueprint, Response, jsonify, render_template, request

from flight_delays.contract import BUCKETS, Collection, format_timestamp
from webapp.errors import ApiError
from webapp.services import MONGO_SECONDS, services

blueprint = Blueprint("scoreboard", __name__)

LISTED: Final = 20
"""Maximum number of replays that are offered, newest first."""


@blueprint.get("/flights/delays/scoreboard")
def page() -> str:
    """The page; its script fetches the score and fetches it again while the replay goes on."""
    return render_template("scoreboard.html", buckets=BUCKETS)


@blueprint.get("/flights/delays/scoreboard/score")
def score() -> Response:
    """`{"replays": [...], "score": {...} | null}`: the replays, newest first, and the score of `?replay=`."""
    wanted = request.args.get("replay")
    with pymongo.timeout(MONGO_SECONDS):
        documents = services().db[Collection.SCOREBOARD]
        newest = documents.find({}, ["State", "Flights", "Answered", "StartedAt"]).sort("$natural", -1).limit(LISTED)
        replays = [_jsonable(document) for document in newest]
        chosen = wanted or (replays[0]["_id"] if replays else None)
        found = documents.find_one({"_id": chosen}) if chosen else None
    if wanted and found is None:
        raise ApiError(404, "unknown_replay", "No replay has this id", "replay")
    return jsonify(replays=replays, score=_jsonable(found) if found else None)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _jsonable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_jsonable(each) for each in value]
    if isinstance(value, dt.datetime):
        return format_timestamp(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
