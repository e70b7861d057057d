"""How the predictor does right now: one `Status`, which Airflow's page, the web app and `make status` show alike."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, BaseModel, ConfigDict

from flight_delays.predictor.events import Event
from flight_delays.predictor.state import Wanted

if TYPE_CHECKING:
    from pymongo.database import Database  # noqa: F401

    from flight_delays.settings import Settings


class Condition(StrEnum):
    """The predictor in one word."""

    RUNNING = "running"
    """It answers what it is asked."""
    CHANGING = "changing"
    """A deployment is under way; what served before serves on."""
    SILENT = "silent"
    """It should answer, and has left a request without an answer for longer than `SILENT_SECONDS`."""
    STOPPED = "stopped"
    """A person stopped it."""
    ABSENT = "absent"
    """Nothing was deployed yet."""
    UNKNOWN = "unknown"
    """MongoDB, where all this is read, does not answer; `problems` says so."""


class Canary(BaseModel):
    """One canary's way: when it left, and the milliseconds until its answer was on Kafka."""

    model_config = ConfigDict(frozen=True)

    At: AwareDatetime
    Generation: int
    Milliseconds: float


class Status(BaseModel):
    """What `status()` found; None and empty where it could not be found, `problems` says why in sentences."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    condition: Condition
    wanted: Wanted | None = None
    version: str | None = None
    """The model that serves."""
    champion: str | None = None
    """The model that should."""
    failed: dict[str, str] = {}
    """Versions that are not tried again, and why."""
    generation: int | None = None
    since: AwareDatetime | None = None
    """When the serving query was started; None while stopped."""
    window_seconds: float = 0
    """The last minutes over which the next four figures go; 0 where nothing was answered in them."""
    answers: int = 0
    per_second: float = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    """From a request's `Timestamp` to its answer's `PredictedAt`."""
    lag: int | None = None
    """Requests on Kafka, all partitions, behind the highest answered one."""
    dead_letters_hour: int | None = None
    canaries: tuple[Canary, ...] = ()
    """The last ones, newest first."""
    events: tuple[Event, ...] = ()
    """The last ones, newest first."""
    problems: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether it does what was asked of it: running, changing, or stopped by a person; nothing is unknown."""
        return self.condition in (Condition.RUNNING, Condition.CHANGING, Condition.STOPPED) and not self.problems


def status(settings: Settings) -> Status:
    """How the predictor does; takes 5 s at most and raises nothing: what cannot be found out is in `problems`."""
    raise NotImplementedError
