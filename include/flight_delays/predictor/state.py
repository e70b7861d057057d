"""What the predictor should be and what was done about it: the one document of `Collection.STATE`.

Each write is a compare-and-set on `revision`: a run that read an older revision can change nothing (fencing), so an
overtaken run neither starts nor stops a query. `generation` counts the deployments, and names the Spark Connect
session and the checkpoint of each.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from flight_delays.contract import Collection
from flight_delays.errors import OvertakenError, PredictorError
from flight_delays.predictor import timeouts

if TYPE_CHECKING:
    from pymongo.database import Database

    from flight_delays.model.registry import Pointer

_STATE_ID: Final = "flight_delay_predictor"


class Wanted(StrEnum):
    """What a person asked for last; until somebody asks, running."""

    RUNNING = "running"
    STOPPED = "stopped"


class Action(StrEnum):
    """What may be asked of the predictor, by the parameter `action` of its DAG."""

    RECONCILE = "reconcile"
    """Bring about what is recorded: assets, repairs and `make up` ask for this; it does not end a person's stop."""
    START = "start"
    RESTART = "restart"
    """A new query on a new checkpoint, next to the old one, which stops once the new one answers."""
    DEPLOY = "deploy"
    """Move the pointer to a version, then as `START`."""
    STOP = "stop"


class Gap(BaseModel):
    """Requests that no reader can take: the offsets `first` to `last` of a partition, one batch. No query starts there.

    `topic_id` is that of the topic that bore the name then. Every readable request before the gap was answered, or is
    on the topic again behind it.
    """

    model_config = ConfigDict(frozen=True)

    topic_id: str
    partition: int
    first: int
    last: int
    reason: str


class Deployment(BaseModel):
    """One start of the query: `generation` is the `Deployment` in its answers.

    One that began `alone`, after its predecessor was stopped for sure, counts for where it got to, even if given up.
    `topic_id` is that of the request topic; empty where it is not known, which counts as the same topic.
    """

    model_config = ConfigDict(frozen=True)

    generation: int
    version: str
    session_id: str
    checkpoint: str
    query_id: str = ""
    run_id: str = ""
    started_at: AwareDatetime
    alone: bool = False
    topic_id: str = ""

    def reads(self, topic_id: str) -> bool:
        """Whether the request topic with this id is the one that the deployment reads, as far as both are known."""
        return not self.topic_id or topic_id in ("", self.topic_id)


class Failure(BaseModel):
    """Why a version's deployment failed: it is not tried again until a person asks for it, or a newer one comes."""

    model_config = ConfigDict(frozen=True)

    reason: str
    at: AwareDatetime


class State(BaseModel):
    """The document of `Collection.STATE`; what has a default, older releases did not write.

    `serving` is the deployment whose canaries came back last; while stopped, the one to go on from. `candidate` is one
    that has not proved itself yet, `retiring` are Spark sessions to be stopped: a run that was killed leaves these two
    behind, and the next one clears up. `topic_since` is the first generation that reads the request topic of now: what
    an older one answered belongs to a topic that is gone. `gaps` are those of the topic of now.
    """

    model_config = ConfigDict(frozen=True)

    revision: int = 0
    wanted: Wanted = Wanted.RUNNING
    generation: int = 0
    serving: Deployment | None = None
    candidate: Deployment | None = None
    retiring: tuple[str, ...] = ()
    failed: dict[str, Failure] = {}
    changed_at: AwareDatetime | None = None
    topic_since: int = 0
    gaps: tuple[Gap, ...] = ()

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Those whose model, checkpoint and session are in use: the candidate and the serving one, where there are."""
        return tuple(each for each in (self.candidate, self.serving) if each is not None)

    @property
    def in_progress(self) -> bool:
        """Whether a run is at work, or was killed before its end."""
        return self.candidate is not None or bool(self.retiring)

    def failure(self, pointer: Pointer) -> Failure | None:
        """Why the pointer's champion is not tried again; None where it was never tried, or asked for since."""
        failure = self.failed.get(pointer.champion or "")
        asked_since = failure is not None and pointer.updated_at is not None and pointer.updated_at > failure.at
        return None if asked_since else failure

    def unserved(self, pointer: Pointer, now: dt.datetime) -> str | None:
        """Why the pointer's champion does not serve; None where it does, need not, or a run is under way to it."""
        serving = self.serving.version if self.serving else None
        if self.wanted is Wanted.STOPPED or self.in_progress or pointer.champion in (None, serving):
            return None
        if (failure := self.failure(pointer)) is not None:
            return failure.reason
        waits = now - pointer.updated_at if pointer.updated_at else dt.timedelta.max
        return None if waits.total_seconds() < timeouts.IN_PROGRESS_SECONDS else "it was never deployed"

    def next_deployment(self, version: str, *, topic_id: str = "", alone: bool = False) -> Deployment:
        """The deployment that a run may claim, with a session and a checkpoint of its own."""
        generation = self.generation + 1
        session_id = str(uuid4())  # never a used one: a stopped session's id is burnt until the server restarts
        return Deployment(
            generation=generation,
            version=version,
            session_id=session_id,
            checkpoint=f"{generation:06d}-{session_id[:8]}",
            started_at=dt.datetime.now(dt.UTC),
            alone=alone,
            topic_id=topic_id,
        )


def read_state(db: Database[dict[str, Any]]) -> State:
    """The state as it is now. Raises PredictorError where the document is not readable as one."""
    document = db[Collection.STATE].find_one({"_id": _STATE_ID}) or {}
    try:
        return State.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise PredictorError(
            f"the document {_STATE_ID} of {Collection.STATE} is unreadable ({'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}): correct it, or stop the Spark Connect server, delete the document and start it again"
        ) from error


def change_state(db: Database[dict[str, Any]], state: State, **change: Any) -> State:
    """Writes `state` with the changed fields, where nobody has written since it was read; returns what was written.

    Raises OvertakenError where somebody has.
    """
    from pymongo.errors import DuplicateKeyError

    after = state.model_copy(update={**change, "revision": state.revision + 1, "changed_at": dt.datetime.now(dt.UTC)})
    revision: Any = state.revision or {"$exists": False}  # releases before 0.2.0 counted no revisions
    try:
        result = db[Collection.STATE].replace_one(
            {"_id": _STATE_ID, "revision": revision}, after.model_dump(), upsert=state.revision == 0
        )
    except DuplicateKeyError:
        result = None
    if result is None or not (result.matched_count or result.upserted_id):
        raise OvertakenError(
            f"another run changed the predictor's state while this one (from revision {state.revision}) was under way; "
            "it decides, and this one ends here"
        )
    return after
