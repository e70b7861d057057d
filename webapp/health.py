"""Whether the web app can do its work: Kafka and MongoDB both answer."""

from __future__ import annotations

from functools import partial
from typing import Final

import pymongo
from confluent_kafka import KafkaException
from flask import Blueprint, Response, current_app, jsonify
from pymongo.errors import PyMongoError

from webapp.errors import RETRY_AFTER_SECONDS
from webapp.latest import Latest
from webapp.services import Services, services

blueprint = Blueprint("health", __name__)

PART_SECONDS: Final = 1.2
"""A part that does not answer in this time counts as down."""


@blueprint.get("/healthz")
def healthz() -> tuple[Response, int, dict[str, str]]:
    """200 when both answer, else 503: `{"status", "kafka", "mongodb"}`, each "ok" or "down".

    Of many who ask at once one waits for the answers; the others hear what was found before ("unknown": nothing yet).
    """
    here: Latest[dict[str, str]] = current_app.extensions.setdefault(
        "health", Latest(partial(_check, services()), fresh=0, wait=3 * PART_SECONDS)
    )
    parts = here() or {"kafka": "unknown", "mongodb": "unknown"}
    if set(parts.values()) != {"ok"}:
        return jsonify(status="down", **parts), 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return jsonify(status="ok", **parts), 200, {}


def _check(here: Services) -> dict[str, str]:
    parts = {"kafka": "ok", "mongodb": "ok"}
    try:
        here.producer.check(PART_SECONDS)
    except KafkaException:
        parts["kafka"] = "down"
    try:
        with pymongo.timeout(PART_SECONDS):
            here.db.command("ping")
    except PyMongoError:
        parts["mongodb"] = "down"
    return parts
