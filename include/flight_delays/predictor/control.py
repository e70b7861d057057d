"""Control of the predictor: from what is wanted to the one query that answers, and no second one.

The models' pointer file alone says which version runs. The state says whether any does, and what was deployed. A run
writes the state before it acts: whatever kills it, the next run finds what it left behind.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from flight_delays.contract import REQUEST_TOPIC
from flight_delays.errors import BrokerError, CanaryError, OvertakenError, PredictorError, RegistryError, sentence
from flight_delays.infra.kafka import ends
from flight_delays.infra.topics import topic_id
from flight_delays.model import promotion, registry
from flight_delays.predictor import canary, engine, handover
from flight_delays.predictor.events import Event, Kind, record
from flight_delays.predictor.state import Action, Deployment, Failure, Gap, State, Wanted, change_state, read_state

if TYPE_CHECKING:
    from pymongo.database import Database

    from flight_delays.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What was done (`Kind.UNCHANGED`: nothing), for which deployment, and why."""

    result: Kind
    deployment: Deployment | None
    reason: str = ""

    def summary(self) -> dict[str, Any]:
        """The outcome in JSON's types, for a task's result."""
        deployment = self.deployment.model_dump(mode="json") if self.deployment else {}
        return {"result": self.result.value, "reason": self.reason, **deployment}


def reconcile(
    settings: Settings,
    db: Database[dict[str, Any]],
    action: Action = Action.RECONCILE,
    version: str | None = None,
    *,
    reason: str = "",
    dag_run: str = "",
) -> Outcome:
    """Does what is asked, and returns only when it is so: its canaries came back, through MongoDB, or it is stopped.

    `version` is for `DEPLOY`; `reason` and `dag_run` are for the event. Raises PredictorError, CanaryError or
    RegistryError with the reason, in one sentence; what served before goes on serving where it can. Raises
    OvertakenError where another run came in between.
    """
    begin = time.monotonic()

    def event(kind: Kind, deployment: Deployment | None, why: str) -> None:
        generation, model = (deployment.generation, deployment.version) if deployment else (None, version)
        at, seconds = dt.datetime.now(dt.UTC), round(time.monotonic() - begin, 3)
        record(
            db,
            Event(At=at, Kind=kind, Generation=generation, Version=model, Reason=why, Seconds=seconds, DagRun=dag_run),
        )

    run: _Run | None = None
    try:
        if action is Action.DEPLOY:
            if not version:
                raise PredictorError('deploy needs a version: {"action": "deploy", "version": "20260101T030000Z-..."}')
            promotion.move(settings.models, version, "deployed by hand")
        run = _Run(settings, db, reason, event)
        outcome = run.do(action)
        if outcome.result is not Kind.UNCHANGED:
            event(outcome.result, outcome.deployment, outcome.reason)
        if run.canaries and outcome.deployment:  # a new query would not repair the way from Kafka to MongoDB
            canary.await_canaries(db, run.canaries, outcome.deployment.generation, settings.canary_timeout_seconds)
    except OvertakenError:
        raise
    except BaseException as error:  # a task's time limit and SIGTERM are none of Exception
        with suppress(Exception):
            kind = Kind.CANARY_FAILED if isinstance(error, CanaryError) else Kind.FAILED
            event(kind, run.tried if run else None, sentence(error))
        raise
    return outcome


class _Run:
    """One run: it knows the state as it read and wrote it itself, and never reads it again.

    So whatever another run writes meanwhile, this one's next write fails, before it starts or stops anything more.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database[dict[str, Any]],
        reason: str = "",
        event: Callable[[Kind, Deployment, str], None] = lambda *_: None,
    ) -> None:
        self.settings, self.db, self.reason, self.event = settings, db, reason, event
        self.state: State = read_state(db)
        self.canaries: list[str] = []
        self.tried: Deployment | None = None

    def do(self, action: Action) -> Outcome:
        """Does what is asked; see `reconcile`."""
        stopped = self.state.wanted is Wanted.STOPPED
        if action is Action.STOP:
            return self._stop()
        if action is Action.RECONCILE and stopped:
            self._clear_up()
            return Outcome(Kind.UNCHANGED, None, "a person stopped it; the action start ends that")
        pointer = registry.read_pointer(self.settings.models)
        if action is not Action.RECONCILE:  # a person asks for it: what failed before is tried again
            failed = {version: failure for version, failure in self.state.failed.items() if version != pointer.champion}
            if stopped or failed != self.state.failed:
                self._change(wanted=Wanted.RUNNING, failed=failed)
        if pointer.champion is None:
            raise PredictorError(
                "there is no model to serve yet; run the DAG agile_data_science_batch_prediction_model_training"
            )
        self._clear_up()
        outcome = self._serve_champion(pointer, restart=action is Action.RESTART and not stopped)
        if stopped and outcome.result is Kind.REPAIRED:
            return replace(outcome, result=Kind.STARTED, reason=self.reason or "was stopped")
        return outcome

    def _serve_champion(self, pointer: registry.Pointer, *, restart: bool) -> Outcome:
        champion, serving = str(pointer.champion), self.state.serving
        candidates = (serving.version if serving else None, pointer.previous)
        substitute = next((v for v in candidates if v not in (None, champion, *self.state.failed)), None)
        if (failure := self.state.failure(pointer)) is not None:
            why = (
                f"the champion {champion} failed at {failure.at:%Y-%m-%d %H:%M} UTC and is not tried again until a "
                "person asks (action start)"
            )
            if substitute is None:
                raise PredictorError(f"{why}, and no other model can serve: {failure.reason}")
            return replace(self._serve(substitute, restart=restart), reason=f"{why}: {failure.reason}")
        try:
            return self._serve(champion, restart=restart)
        except (OvertakenError, engine.SlotsError, BrokerError):  # no model is to blame
            raise
        except (PredictorError, CanaryError, RegistryError) as error:
            # Is it the new model, or all around it? The old query tells, which does not know the new model.
            serving = self.state.serving
            if isinstance(error, RegistryError):
                self._mark_failed(champion, substitute, error)
            elif serving is not None and serving.version != champion and self._answers(serving):
                self._mark_failed(champion, serving.version, error)
            raise

    def _mark_failed(self, champion: str, substitute: str | None, error: Exception) -> None:
        """Records that the champion failed, once another version serves in its place, if any can."""
        if substitute is not None:
            log.warning("%s serves in place of the champion %s: %s", substitute, champion, error)
            self._serve(substitute, restart=False)
        failure = Failure(reason=sentence(error), at=dt.datetime.now(dt.UTC))
        self._change(failed={**self.state.failed, champion: failure})

    # --- the ways to a running query ---------------------------------------------------------------------------------

    def _serve(self, version: str, *, restart: bool) -> Outcome:
        """Brings about that this version serves: keeps its healthy query, repairs an unhealthy one, replaces others.

        Raises BrokerError before anything is touched where Kafka does not answer.
        """
        ends(self.settings, REQUEST_TOPIC)
        engine.await_server(self.settings)
        serving = self.state.serving
        if serving is None or serving.version != version or restart:
            return self._replace(version)
        unhealthy = handover.recreated(self.settings, serving) or engine.unhealthy_reason(self.settings, serving)
        if unhealthy is None:
            try:
                self._prove(serving)
                return Outcome(Kind.UNCHANGED, serving)
            except BrokerError:
                raise
            except (CanaryError, PredictorError) as error:
                unhealthy = str(error)
        return self._repair(serving, unhealthy)

    def _repair(self, old: Deployment, reason: str) -> Outcome:
        """The same model in a new query, once the unhealthy one is stopped for sure."""
        log.warning("deployment %d is unhealthy: %s", old.generation, reason)
        registry.verify(self.settings.models, old.version)
        checkpoint = self.settings.checkpoints / old.checkpoint
        damaged = checkpoint.exists() and handover.committed(checkpoint) is None
        if damaged and not handover.recreated(self.settings, old):
            raise PredictorError(
                f"the checkpoint {checkpoint} is damaged, so nothing tells where to go on: run the DAG "
                'flight_delay_predictor with {"action": "restart"}, which answers again what Kafka still keeps (first '
                f"answers stay). What made a new query necessary: {reason}"
            )
        engine.await_server(self.settings)  # it may have died a moment ago
        candidate = self._claim(old.version, alone=True)
        engine.stop_session(self.settings, old.session_id)
        candidate = self._launch(candidate)
        self._change(serving=candidate, candidate=None)
        return Outcome(Kind.REPAIRED, candidate, reason)

    def _replace(self, version: str) -> Outcome:
        """A new query next to the old one, which stops only once the new one has answered its canaries."""
        old = self.state.serving
        registry.verify(self.settings.models, version)
        candidate = self._launch(self._claim(version))
        self._change(serving=candidate, candidate=None, retiring=(old.session_id,) if old else ())
        self._clear_up()
        if old is None:
            return Outcome(Kind.STARTED, candidate, self.reason or "the first deployment")
        if old.version == version:
            return Outcome(Kind.RESTARTED, candidate, self.reason or "a person asked for it")
        return Outcome(Kind.REPLACED, candidate, self.reason or f"replaces {old.version}")

    def _stop(self) -> Outcome:
        """Stops the query, and whatever a killed run left behind."""
        if self.state.wanted is Wanted.STOPPED and not self.state.in_progress:
            return Outcome(Kind.UNCHANGED, None, "is stopped")
        serving = self.state.serving
        retiring = (*self.state.retiring, *(each.session_id for each in self.state.deployments))
        self._change(wanted=Wanted.STOPPED, retiring=retiring, **self._drop_candidate(self.state.candidate))
        self._clear_up()
        return Outcome(Kind.STOPPED, serving, self.reason or "a person asked for it")

    # --- steps -------------------------------------------------------------------------------------------------------

    def _launch(self, candidate: Deployment) -> Deployment:
        """Starts the claimed candidate behind what was answered; returns it once its canaries came.

        Where that fails, its session is stopped and the candidate is given back.
        """
        self.tried = candidate
        try:
            queries = 2 if self.state.serving and not candidate.alone else 1
            start = self._start(candidate).for_spark()
            candidate = engine.start(self.settings, candidate, start, queries=queries)
            self._change(candidate=candidate)
            self._prove(candidate)
        except Exception as error:
            with suppress(PredictorError):  # where the server stays away, the next run clears up
                engine.await_server(self.settings)
                engine.stop_session(self.settings, candidate.session_id)
                if not isinstance(error, OvertakenError):
                    self._change(**self._drop_candidate(candidate))
            raise
        self.tried = None
        return candidate

    def _start(self, candidate: Deployment) -> handover.Start:
        """Where the candidate starts: behind what was answered, and behind what no query could read."""
        old = self.state.serving
        if old is None or not old.reads(candidate.topic_id):  # offsets would be those of a topic that is gone
            checkpoint = None
            self._change(topic_since=candidate.generation)
        else:
            checkpoint = self.settings.checkpoints / old.checkpoint
        start = handover.starting_point(self.settings, checkpoint, self.state.topic_since)
        known = {(gap.partition, gap.first): gap for gap in self.state.gaps if gap.topic_id == candidate.topic_id}
        start, new = handover.go_around(self.settings, start, known)
        gaps = (*known.values(), *(Gap(topic_id=candidate.topic_id, **asdict(batch)) for batch in new))
        if gaps != self.state.gaps:
            self._change(gaps=gaps)
        for gap in new:
            self.event(
                Kind.QUARANTINED,
                candidate,
                f"partition {gap.partition} of {REQUEST_TOPIC}, offsets {gap.first} to {gap.last}, is quarantined, "
                f"as it would end every query: {gap.reason}",
            )
        return start

    def _prove(self, deployment: Deployment) -> None:
        """Returns once the canaries were answered; where they are not, the query's own exception is the reason."""
        try:
            self.canaries = canary.prove(
                self.settings,
                deployment.generation,
                self.settings.canary_timeout_seconds,
                lambda: engine.unhealthy_reason(self.settings, deployment),
            )
        except BrokerError:
            raise
        except CanaryError as error:
            self.tried = deployment
            if (reason := engine.unhealthy_reason(self.settings, deployment)) is not None:
                raise PredictorError(reason) from error
            raise

    def _answers(self, deployment: Deployment) -> bool:
        try:
            self._prove(deployment)
        except (PredictorError, CanaryError):
            return False
        return True

    def _claim(self, version: str, *, alone: bool = False) -> Deployment:
        candidate = self.state.next_deployment(version, topic_id=topic_id(self.settings, REQUEST_TOPIC), alone=alone)
        self._change(generation=candidate.generation, candidate=candidate)
        return candidate

    def _clear_up(self) -> None:
        """Stops what this run replaced or a killed one left behind, so that never two queries answer for long."""
        if not self.state.in_progress:
            return
        engine.await_server(self.settings)
        candidate = self.state.candidate
        for session_id in [*self.state.retiring, *([candidate.session_id] if candidate else [])]:
            engine.stop_session(self.settings, session_id)
        self._change(retiring=(), **self._drop_candidate(candidate))

    def _drop_candidate(self, candidate: Deployment | None) -> dict[str, Any]:
        """The change that gives a candidate up; after a repair, the next one goes on where that one got to.

        So a backlog that takes longer than a task may is worked off all the same.
        """
        serving = self.state.serving
        alone = candidate if candidate and candidate.alone else None
        if serving and alone and handover.committed(self.settings.checkpoints / alone.checkpoint):
            serving = serving.model_copy(update={"checkpoint": alone.checkpoint, "topic_id": alone.topic_id})
        return {"candidate": None, "serving": serving}

    def _change(self, **change: Any) -> None:
        self.state = change_state(self.db, self.state, **change)
