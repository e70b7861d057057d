"""How the predictor does: a page for people, and figures for Prometheus."""

from __future__ import annotations

import threading
import time
from typing import Final

from flask import Blueprint, Response, current_app, render_template
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from flight_delays.predictor.live import Condition, Status, rows, status
from flight_delays.settings import Settings
from webapp.services import services

blueprint = Blueprint("status", __name__)

FRESH_SECONDS: Final = 2.0
"""So long a status is shown again: however many ask, MongoDB and Kafka are read so often at most."""


class Latest:
    """The latest status, read by one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._until = 0.0
        self._status: Status | None = None

    def __call__(self) -> Status:
        with self._lock:
            if self._status is None or time.monotonic() > self._until:
                self._status = status(self._settings)
                self._until = time.monotonic() + FRESH_SECONDS
            return self._status


def latest() -> Status:
    """The status, at most `FRESH_SECONDS` old."""
    here: Latest = current_app.extensions.setdefault("predictor_status", Latest(services().settings))
    return here()


@blueprint.get("/status")
def page() -> str:
    """The page; its script replaces the content every 5 s. 200 also where something is ill: it says so."""
    found = latest()
    return render_template("status.html", status=found, rows=rows(found))


@blueprint.get("/metrics")
def metrics() -> Response:
    """The same figures in Prometheus' text format; what is unknown is left out."""
    return Response(generate_latest(_registry(latest())), content_type=CONTENT_TYPE_LATEST)


def _registry(found: Status) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, what: str, value: float | None) -> None:
        if value is not None:
            Gauge(f"flight_delay_predictor_{name}", what, registry=registry).set(value)

    gauge("up", "1 where the predictor does what was asked of it, also where that is to be stopped", found.healthy)
    condition = Gauge(
        "flight_delay_predictor_condition", "1 for the condition that holds", ["condition"], registry=registry
    )
    for each in Condition:
        condition.labels(each.value).set(each is found.condition)
    versions = {"version": found.version or "", "champion": found.champion or ""}
    info = Gauge("flight_delay_predictor_model_info", "The model that serves", list(versions), registry=registry)
    info.labels(**versions).set(1)
    gauge("generation", "Number of the deployment", found.generation)
    uptime = (found.at - found.since).total_seconds() if found.since else None
    gauge("uptime_seconds", "Since the serving query was started", uptime)
    gauge("requests_per_second", "Answers per second over the last minutes", found.per_second)
    if found.p50_ms is not None and found.p99_ms is not None:
        name, what = "flight_delay_predictor_latency_seconds", "From a request to its answer, over the last minutes"
        latency = Gauge(name, what, ["quantile"], registry=registry)
        latency.labels("0.5").set(found.p50_ms / 1000)
        latency.labels("0.99").set(found.p99_ms / 1000)
    gauge("lag_messages", "Requests behind the highest answered one", found.lag)
    gauge("dead_letters_last_hour", "Messages rejected in the last hour, 1,000 at most", found.dead_letters_hour)
    if found.canaries:
        gauge("canary_latency_seconds", "From the last canary to its answer", found.canaries[0].Milliseconds / 1000)
        gauge("canary_timestamp_seconds", "When the last answered canary left", found.canaries[0].At.timestamp())
    return registry
