"""What takes long to find out, for many who ask: one thread asks, and nobody waits for it for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """The latest value of `read`, read again in the background where somebody asks and it is older than `fresh` s.

    Who starts the reading waits for it, at most `wait` s; everybody else gets the value before, at once: however many
    ask, one thread of the server waits at most. None where no value was read in time yet.
    """

    def __init__(self, read: Callable[[], T], fresh: float, wait: float) -> None:
        self._read, self._fresh, self._wait = read, fresh, wait
        self._lock = threading.Lock()
        self._until = 0.0
        self._thread: threading.Thread | None = None
        self._value: T | None = None

    def __call__(self) -> T | None:
        """The value; safe to call from many threads."""
        started = None
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if not busy and time.monotonic() >= self._until:
                started = self._thread = threading.Thread(target=self._refresh, name="latest", daemon=True)
                started.start()
        if started:
            started.join(self._wait)
        return self._value

    def _refresh(self) -> None:
        self._value = self._read()
        self._until = time.monotonic() + self._fresh
