"""What happened to the predictor: the documents of `Collection.EVENTS`, in the order in which it happened."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict

from flight_delays.contract import Collection

if TYPE_CHECKING:
    from pymongo.database import Database


class Kind(StrEnum):
    """What happened."""

    UNCHANGED = "unchanged"
    """Nothing: a run's result, but no event."""
    STARTED = "started"
    REPLACED = "replaced"
    RESTARTED = "restarted"
    REPAIRED = "repaired"
    STOPPED = "stopped"
    CANARY_FAILED = "canary_failed"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class Event(BaseModel):
    """One event: what, when, of which deployment, why, how long it took, and the Airflow run that did it."""

    model_config = ConfigDict(frozen=True)

    At: AwareDatetime
    Kind: Kind
    Generation: int | None = None
    Version: str | None = None
    Reason: str = ""
    """What led to it (`repaired`), or what went wrong (`canary_failed`, `failed`, `quarantined`)."""
    Seconds: float = 0
    DagRun: str = ""
    """`dag_id/run_id`; empty where no Airflow run did it."""


def record(db: Database[dict[str, Any]], event: Event) -> None:
    """Adds an event. Raises pymongo's errors."""
    db[Collection.EVENTS].insert_one(event.model_dump())


def last_events(db: Database[dict[str, Any]], n: int) -> list[Event]:
    """The `n` latest events, newest first; read in natural order, as the embedded server has no index for it."""
    return [Event.model_validate(found) for found in db[Collection.EVENTS].find({}).sort("$natural", -1).limit(n)]
