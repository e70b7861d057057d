"""Whether the web app can do its work: Kafka and MongoDB both answer."""

from __future__ import annotations

from typing import Final

import pymongo
from confluent_kafka import KafkaException
from flask import Blueprint, Response, jsonify
from pymongo.errors import PyMongoError

from webapp.errors import RETRY_AFTER_SECONDS
from webapp.services import services

blueprint = Blueprint("health", __name__)

PART_SECONDS: Final = 1.2
"""A part that does not answer in this time counts as down."""


@blueprint.get("/healthz")
def healthz() -> tuple[Response, int, dict[str, str]]:
    """200 when both answer, else 503: `{"status", "kafka", "mongodb"}`, each "ok" or "down"."""
    here = services()
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
    if "down" in parts.values():
        return jsonify(status="down", **parts), 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return jsonify(status="ok", **parts), 200, {}
