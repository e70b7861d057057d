"""Probes of the predictor's health, and how often a failed one raises an alarm; Airflow's triggerer runs them."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from flight_delays.errors import CanaryError, PredictorError, RegistryError, sentence
from flight_delays.infra import mongo
from flight_delays.model import registry
from flight_delays.predictor import canary, engine, timeouts
from flight_delays.predictor.handover import recreated
from flight_delays.predictor.state import State, Wanted, read_state

if TYPE_CHECKING:
    from flight_delays.settings import Settings

log = logging.getLogger(__name__)


class Part(StrEnum):
    """The parts, in the order in which they are probed: an unhealthy part hides the state of those after it."""

    STORE = "store"
    CHANGE = "change"
    QUERY = "query"
    ANSWERS = "answers"
    STORED = "stored"


@dataclass(frozen=True)
class Unhealthy:
    """The unhealthy part, and the reason, in one sentence."""

    part: Part
    reason: str


def probe(settings: Settings) -> Unhealthy | None:
    """The first unhealthy part; None where all are healthy or a person stopped the predictor. Raises nothing."""
    part = Part.STORE
    try:
        with mongo.database(settings, timeoutMS=5000) as db:
            state = read_state(db)
            part = Part.CHANGE
            if (reason := _left_undone(settings, state)) is not None:
                return Unhealthy(part, reason)
            serving = state.serving
            if state.wanted is Wanted.STOPPED or state.in_progress or serving is None:
                return None
            part = Part.QUERY
            if (reason := engine.unhealthy_reason(settings, serving)) is not None:
                return Unhealthy(part, reason)
            part = Part.ANSWERS
            if (reason := recreated(settings, serving)) is not None:
                raise PredictorError(reason)
            uuids = canary.prove(settings, serving.generation, timeouts.CANARY_SECONDS)
            part = Part.STORED
            canary.await_canaries(db, uuids, serving.generation, timeouts.CANARY_SECONDS)
    except PyMongoError as error:
        return Unhealthy(
            part, f"MongoDB does not answer at {settings.mongo_uri.rpartition('@')[2]} (MONGO_URI; {sentence(error)})"
        )
    except Exception as error:
        if not isinstance(error, (PredictorError, CanaryError, RegistryError)):
            log.exception("the probe itself failed")
        return Unhealthy(part, sentence(error))
    return None


def _left_undone(settings: Settings, state: State) -> str | None:
    """What a run should have done by now and did not, because it was killed, or was never started."""
    now = dt.datetime.now(dt.UTC)
    if state.in_progress:
        limit = now - dt.timedelta(seconds=timeouts.IN_PROGRESS_SECONDS)
        since = state.changed_at or limit
        return None if since > limit else f"a deployment was left in progress at {since:%H:%M:%S} UTC"
    pointer = registry.read_pointer(settings.models)
    unserved = None if state.failure(pointer) else state.unserved(pointer, now)
    return unserved and f"the champion {pointer.champion} does not serve: {unserved}"


@dataclass
class Backoff:
    """When an unhealthy part raises an alarm: at once, then after a pause that doubles, for each part on its own.

    A part that was seen healthy starts again without a pause.
    """

    clock: Callable[[], float] = time.monotonic
    _next: dict[Part, tuple[float, float]] = field(default_factory=dict)

    def alarm(self, unhealthy: Unhealthy | None) -> bool:
        """Whether to raise the alarm for what `probe` found."""
        parts = list(Part)
        healthy = parts[: parts.index(unhealthy.part)] if unhealthy else parts
        for part in healthy:
            self._next.pop(part, None)
        if unhealthy is None:
            return False
        due, pause = self._next.get(unhealthy.part, (self.clock(), timeouts.FIRST_PAUSE_SECONDS))
        if self.clock() < due:
            return False
        self._next[unhealthy.part] = (self.clock() + pause, min(pause * 2, timeouts.LONGEST_PAUSE_SECONDS))
        return True
