"""The form's page, the endpoint that takes a flight, and the endpoint that gives its prediction."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

import pymongo
from flask import Blueprint, Response, jsonify, redirect, render_template, request, url_for
from gunicorn.http.errors import ParseException
from werkzeug.wrappers import Response as AnyResponse

from flight_delays.contract import BUCKETS, DELAY_MINUTES, FIRST_DATE, LAST_DATE, SUBMIT_PATH, format_timestamp, is_uuid
from flight_delays.data.conditions import find_conditions
from flight_delays.predictor.workload import request_message
from webapp.errors import ApiError, InvalidError, UnavailableError
from webapp.forms import read_flight
from webapp.producer import NotConfirmedError
from webapp.services import MONGO_SECONDS, ORIGINAL_EXAMPLE, services

blueprint = Blueprint("predictions", __name__)

ANSWER_SECONDS: Final = 2.8
"""A flight is accepted or refused within this time."""
MAX_WAIT_SECONDS: Final = 30.0
FORM_TYPES: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


@blueprint.get("/")
def index() -> AnyResponse:
    """The form is the front page."""
    return redirect(url_for("predictions.form"))


@blueprint.get("/flights/delays/predict_kafka")
def form() -> str:
    """The page."""
    return render_template(
        "predict_kafka.html",
        known=services().known(),
        original=ORIGINAL_EXAMPLE,
        example=services().known_example(),
        buckets=BUCKETS,
        delays=DELAY_MINUTES,
        dates=(FIRST_DATE, LAST_DATE),
    )


@blueprint.post(SUBMIT_PATH)
def submit() -> tuple[Response, int, dict[str, str]]:
    """Takes a flight: 202 once Kafka has confirmed it, with the place where its prediction will be."""
    begin = time.monotonic()
    here = services()
    if (full := here.full_disk()) is not None:
        raise UnavailableError("disk_full", "The server's disk is almost full", full)
    with pymongo.timeout(MONGO_SECONDS):
        known = here.known()
        try:
            flight = read_flight(_body(), known)
        except InvalidError as error:
            if not known.complete and all(each.code.startswith("unknown_") for each in error.errors):
                message = "MongoDB does not answer, and without it not all airports are known"
                raise UnavailableError("mongodb_unavailable", message, error) from error
            raise
        distance = here.distance(flight.Origin, flight.Dest)
        fields = flight.model_dump()
        fields |= find_conditions(here.db, fields)
    if distance is None:
        message = f"No distance is known from {flight.Origin} to {flight.Dest}"
        raise InvalidError([ApiError(400, "unknown_distance", message, "Dest", "an airport with known coordinates")])
    uuid = str(uuid4())
    try:
        here.producer.send(
            uuid, request_message(uuid, **fields, Distance=distance), ANSWER_SECONDS - (time.monotonic() - begin)
        )
    except NotConfirmedError as error:
        raise UnavailableError("kafka_unavailable", "Kafka did not confirm the request", error) from error
    accepted = jsonify(status="OK", id=uuid)
    if _parses_text():
        accepted.mimetype = "text/plain"
    return accepted, 202, {"Location": url_for("predictions.answer", uuid=uuid)}


@blueprint.get(f"{SUBMIT_PATH}/response/<uuid>")
def answer(uuid: str) -> Response:
    """A flight's answer: WAIT, OK with the prediction, or REJECTED; `?wait=SECONDS` delays WAIT by that time."""
    if not is_uuid(uuid):
        raise ApiError(400, "malformed_uuid", "The id is not a UUID, e.g. 123e4567-e89b-12d3-a456-426614174000", "id")
    uuid = uuid.lower()
    here = services()
    found = here.waiting.wait(uuid, _wait_seconds())
    if found is None:
        return jsonify(status="WAIT", id=uuid)
    document = found.document
    if found.status == "REJECTED":
        return jsonify(status="REJECTED", id=uuid, reason=document.get("reason"), field=document.get("field"))
    return jsonify(
        status="OK",
        id=uuid,
        prediction={name: _jsonable(name, value) for name, value in document.items() if name != "_id"},
        label=BUCKETS[document["Prediction"]].label,
        unseen=here.unseen(document),
    )


def _body() -> Mapping[str, Any]:
    try:
        request.get_data()
    except (OSError, ParseException) as error:  # gunicorn's, where nginx did not read the body before
        raise ApiError(400, "malformed_http", "The body cannot be read: its chunks are malformed") from error
    if request.is_json:
        try:
            data = request.get_json()
        except RecursionError:
            raise ApiError(400, "malformed_json", "The JSON is nested too deeply") from None
        if not isinstance(data, dict):
            raise ApiError(400, "not_an_object", "A JSON object is expected, with a member for each field")
        return data
    if request.mimetype not in FORM_TYPES and request.get_data():
        raise ApiError(400, "not_form_or_json", f"The body must be application/json, {' or '.join(FORM_TYPES)}")
    return request.form.to_dict()


def _parses_text() -> bool:
    """Whether this is the form of the original's page: jQuery would give its `JSON.parse` an object for JSON."""
    script = request.headers.get("X-Requested-With") == "XMLHttpRequest"
    return script and request.mimetype in FORM_TYPES and "json" not in request.headers.get("Accept", "")


def _wait_seconds() -> float:
    try:
        seconds = float(request.args.get("wait", "0"))
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:  # NaN too
        raise ApiError(400, "invalid_wait", f"wait must be seconds from 0 to {MAX_WAIT_SECONDS:g}", "wait")
    return min(seconds, MAX_WAIT_SECONDS)


def _jsonable(name: str, value: Any) -> Any:
    """Dates as ISO 8601, `FlightDate` without a time; MongoDB gives times in UTC."""
    if not isinstance(value, dt.datetime):
        return value
    return value.date().isoformat() if name == "FlightDate" else format_timestamp(value)
