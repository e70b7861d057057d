"""Looks whether the predictor is ill, and how often that is worth an alarm; Airflow's triggerer does so for ever."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pymongo.errors import PyMongoError

from flight_delays import canary, registry, store
from flight_delays.errors import CanaryError, sentence
from flight_delays.predictor import engine
from flight_delays.predictor.handover import recreated
from flight_delays.predictor.state import PredictorError, State, Wanted, read_state

if TYPE_CHECKING:
    from flight_delays.settings import Settings

log = logging.getLogger(__name__)

CANARY_SECONDS: Final = 15.0
"""So long may a canary of the watch take; what is answered meanwhile prolongs it. Usually it takes 20 ms."""
UNDER_WAY_SECONDS: Final = 60.0
"""What a run leaves half done for so long, or does not begin, nobody is at work on any more."""
FIRST_PAUSE_SECONDS: Final = 20.0
"""From one alarm to the next, when the illness stays: a repair takes so long. Doubled each time."""
LONGEST_PAUSE_SECONDS: Final = 600.0


class Part(StrEnum):
    """What can be ill, in the order in which it is looked at: behind an ill part nothing can be told."""

    STORE = "store"
    CHANGE = "change"
    QUERY = "query"
    ANSWERS = "answers"
    STORED = "stored"


@dataclass(frozen=True)
class Illness:
    """What is ill, and why, in one sentence."""

    part: Part
    reason: str


def look(settings: Settings) -> Illness | None:
    """The first ill part, None where all is well or a person stopped the predictor. Raises nothing."""
    part = Part.STORE
    db = store.connect(settings, timeoutMS=5000)
    try:
        state = read_state(db)
        part = Part.CHANGE
        if (reason := _left_undone(settings, state)) is not None:
            return Illness(part, reason)
        serving = state.serving
        if state.wanted is Wanted.STOPPED or state.half_done or serving is None:
            return None
        part = Part.QUERY
        if (reason := engine.illness(settings, serving)) is not None:
            return Illness(part, reason)
        part = Part.ANSWERS
        if (reason := recreated(settings, serving)) is not None:
            raise PredictorError(reason)
        uuids, _ = canary.prove(settings, serving.generation, CANARY_SECONDS)
        part = Part.STORED
        canary.await_canaries(db, uuids, serving.generation, CANARY_SECONDS)
    except PyMongoError as error:
        return Illness(
            part, f"MongoDB does not answer at {settings.mongo_uri.rpartition('@')[2]} (MONGO_URI; {sentence(error)})"
        )
    except Exception as error:
        if not isinstance(error, (PredictorError, CanaryError, registry.RegistryError)):
            log.exception("the watch itself failed")
        return Illness(part, sentence(error))
    finally:
        db.client.close()
    return None


def _left_undone(settings: Settings, state: State) -> str | None:
    """What a run should have done by now and did not, because it was killed, or was never started."""
    now = dt.datetime.now(dt.UTC)
    limit = now - dt.timedelta(seconds=UNDER_WAY_SECONDS)
    if state.half_done:
        since = state.changed_at or limit
        return None if since > limit else f"a deployment was left half done at {since:%H:%M:%S} UTC"
    if state.wanted is Wanted.STOPPED:
        return None
    pointer = registry.read_pointer(settings.models)
    serving = state.serving.version if state.serving else None
    if pointer.champion in (None, serving) or state.failure(pointer) or (pointer.updated_at or limit) > limit:
        return None
    return f"the champion {pointer.champion} was never deployed"


@dataclass
class Patience:
    """When an illness is worth an alarm: at once, then after a pause that doubles, for each part on its own.

    A part's patience is new once it was seen well.
    """

    clock: Callable[[], float] = time.monotonic
    _next: dict[Part, tuple[float, float]] = field(default_factory=dict)

    def alarm(self, illness: Illness | None) -> bool:
        """Whether to raise the alarm for what `look` found."""
        parts = list(Part)
        well = parts[: parts.index(illness.part)] if illness else parts
        for part in well:
            self._next.pop(part, None)
        if illness is None:
            return False
        due, pause = self._next.get(illness.part, (self.clock(), FIRST_PAUSE_SECONDS))
        if self.clock() < due:
            return False
        self._next[illness.part] = (self.clock() + pause, min(pause * 2, LONGEST_PAUSE_SECONDS))
        return True
