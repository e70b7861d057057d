"""Waiting for answers: one thread looks for all requests that wait, so that a hundred cost hardly more than one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import PyMongoError

from flight_delays.answers.store import Answer, find_answer
from flight_delays.contract import Collection

FIRST_LOOK_SECONDS: Final = 0.003
LAST_LOOK_SECONDS: Final = 0.05
ASKED_A_SECOND: Final = 1000
"""No more answers than these are asked for: in an outage many wait, and what repairs it needs the processor."""


class AnswerPoller:
    """Holds requests until their answer is there; safe to share between threads."""

    def __init__(self, db: Callable[[], Database[dict[str, Any]]], limit: int) -> None:
        """`limit`: each request that waits holds a thread of the server, and some must stay free for the others."""
        self._db = db
        self._limit = limit
        self._changed = threading.Condition()
        self._futures: dict[Future[Answer], str] = {}
        self._thread: threading.Thread | None = None
        self._newest = 0.0

    def wait(self, uuid: str, seconds: float) -> Answer | None:
        """The answer as soon as it can be read; None where it does not come in time. Raises pymongo's errors.

        Where too many wait already it looks once and returns.
        """
        future: Future[Answer] = Future()
        if seconds <= 0 or not self._enter(future, uuid):
            return find_answer(self._db(), uuid)
        try:
            return future.result(seconds)
        except TimeoutError:
            return find_answer(self._db(), uuid)  # raises where it was MongoDB that did not answer
        finally:
            with self._changed:
                self._futures.pop(future, None)

    def _enter(self, future: Future[Answer], uuid: str) -> bool:
        with self._changed:
            if len(self._futures) >= self._limit:
                return False
            self._futures[future] = uuid
            self._newest = time.monotonic()
            if self._thread is None:  # made at first use, so after gunicorn's fork
                self._thread = threading.Thread(target=self._look_out, name="answers", daemon=True)
                self._thread.start()
            self._changed.notify()
            return True

    def _look_out(self) -> None:
        turn = 0
        while True:
            with self._changed:
                while not self._futures:
                    self._changed.wait()
                waiting = dict(self._futures)
                newest = self._newest
            try:
                found = self._look(waiting, turn)
            except PyMongoError as error:
                for future in self._leaving(waiting):
                    future.set_exception(error)
            else:
                for future in self._leaving({f: uuid for f, uuid in waiting.items() if uuid in found}):
                    future.set_result(found[waiting[future]])
            turn += 1
            # Most answers take ten milliseconds; what takes a second may take longer.
            age = time.monotonic() - newest
            time.sleep(min(LAST_LOOK_SECONDS, max(FIRST_LOOK_SECONDS, age / 20, len(waiting) / ASKED_A_SECOND)))

    def _look(self, waiting: dict[Future[Answer], str], turn: int) -> dict[str, Answer]:
        """Predictions of all in one query by `_id`; rejections, which are rare, of one request at a time in turn.

        The embedded MongoDB reads the whole collection for `$in` on any other field than `_id`.
        """
        uuids = sorted(set(waiting.values()))
        documents = self._db()[Collection.RESPONSES].find({"_id": {"$in": uuids}})
        found = {document["_id"]: Answer("OK", document) for document in documents}
        one = uuids[turn % len(uuids)]
        if one not in found and (answer := find_answer(self._db(), one)) is not None:
            found[one] = answer
        return found

    def _leaving(self, waiting: dict[Future[Answer], str]) -> list[Future[Answer]]:
        """Those that still wait; they do so no more."""
        with self._changed:
            return [future for future in waiting if self._futures.pop(future, None) is not None]
