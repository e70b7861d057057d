"""The predictor's status: a page for people, and figures for Prometheus."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Final

from flask import Blueprint, Response, current_app, render_template
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from flight_delays.predictor.status import Condition, Status, read_status, rows
from webapp.latest import Latest
from webapp.services import services

blueprint = Blueprint("status", __name__)

FRESH_SECONDS: Final = 2.0
"""How long a status is shown again: however many ask, MongoDB and Kafka are read so often at most."""
WAIT_SECONDS: Final = 1.0
"""How long who starts the reading waits for it: with all services there it takes a tenth of that."""


def latest() -> Status:
    """The last status, for which nobody waits longer than `WAIT_SECONDS`; its `at` says how old it is."""
    here: Latest[Status] = current_app.extensions.setdefault(
        "predictor_status", Latest(partial(read_status, services().settings), FRESH_SECONDS, WAIT_SECONDS)
    )
    unread = "the status is being read for the first time: look again in a moment"
    return here() or Status(at=dt.datetime.now(dt.UTC), condition=Condition.UNKNOWN, problems=(unread,))


@blueprint.get("/status")
def page() -> str:
    """The page; its script replaces the content every 5 s. 200 also where the predictor is unhealthy: it says so."""
    found = latest()
    age = max(0.0, (dt.datetime.now(dt.UTC) - found.at).total_seconds())
    return render_template("status.html", status=found, rows=rows(found), age=age)


@blueprint.get("/metrics")
def metrics() -> Response:
    """The same figures in Prometheus' text format; what is unknown is left out."""
    return Response(generate_latest(_registry(latest())), content_type=CONTENT_TYPE_LATEST)


def _registry(found: Status) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, what: str, value: float | None) -> None:
        if value is not None:
            Gauge(f"flight_delay_predictor_{name}", what, registry=registry).set(value)

    def gauges(name: str, what: str, label: str, values: dict[str, float]) -> None:
        metric = Gauge(f"flight_delay_predictor_{name}", what, [label], registry=registry)
        for each, value in values.items():
            metric.labels(each).set(value)

    gauge("status_timestamp_seconds", "When these figures were read", found.at.timestamp())
    gauge("up", "1 where the predictor does what was asked of it, also where that is to be stopped", found.healthy)
    conditions = {each.value: float(each is found.condition) for each in Condition}
    gauges("condition", "1 for the condition that holds", "condition", conditions)
    versions = {"version": found.version or "", "champion": found.champion or ""}
    info = Gauge("flight_delay_predictor_model_info", "The model that serves", list(versions), registry=registry)
    info.labels(**versions).set(1)
    gauge("generation", "Number of the deployment", found.generation)
    uptime = (found.at - found.since).total_seconds() if found.since else None
    gauge("uptime_seconds", "Since the serving query was started", uptime)
    gauge("requests_per_second", "Answers per second over the last minutes", found.per_second)
    if found.p50_ms is not None and found.p99_ms is not None:
        latency = {"0.5": found.p50_ms / 1000, "0.99": found.p99_ms / 1000}
        gauges("latency_seconds", "From a request to its answer, over the last minutes", "quantile", latency)
    gauge("lag_messages", "Requests behind the highest answered one", found.lag)
    gauge("dead_letters_last_hour", "Messages rejected in the last hour, 1,000 at most", found.dead_letters_hour)
    if found.canaries:
        gauge("canary_latency_seconds", "From the last canary to its answer", found.canaries[0].Milliseconds / 1000)
        gauge("canary_timestamp_seconds", "When the last answered canary left", found.canaries[0].At.timestamp())
    return registry
