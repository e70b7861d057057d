"""What a person sees of long work: one line a step, with its state and the time it took. Standard library only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flight_delays.errors import sentence
from flight_delays.infra.printable import one_line, printable

TAIL_LINES = 15
START = "make predictor ACTION=start"
"""The command that ends a stop, where a step says what to do."""


class StepFailedError(Exception):
    """A step failed; `hint` says what to do, `log` where more stands."""

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.log = log


class Step:
    """A step under way: `say` shows how it stands, `result` is what stands behind it at the end."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._begin = time.monotonic()
        self.result = ""
        self._live = sys.stdout.isatty()
        self._show("…", "")

    def say(self, state: str) -> None:
        """Shows how it stands; off a terminal only where that changed."""
        if self._live:
            self._show("…", state)
        elif state != self.result:
            print(f"    {self._title}: {state} ({self.seconds:.0f} s)", flush=True)
        self.result = state

    def done(self, mark: str, state: str) -> None:
        """Shows the final state."""
        self._show(mark, state, end="\n", always=True)

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._begin

    def _show(self, mark: str, state: str, *, end: str = "", always: bool = False) -> None:
        state = one_line(state)
        line = f"{mark} {self._title:<22} {state:<60.60} {self.seconds:6.1f} s"
        if self._live:
            print(f"\r\x1b[K{line}", end=end, flush=True)
        elif always:
            print(line if len(state) <= 60 else f"{mark} {self._title:<22} {state} {self.seconds:6.1f} s", flush=True)


@contextmanager
def step(title: str, *, hint: str = "", log: Path | None = None) -> Iterator[Step]:
    """Runs a step; a failure is shown with the end of its log and what to do, and raised as StepFailedError."""
    current = Step(title)
    try:
        yield current
    except StepFailedError as error:
        current.done("✗", "failed")
        error.hint, error.log = error.hint or hint, error.log or log
        raise
    except Exception as error:
        current.done("✗", "failed")
        raise StepFailedError(sentence(error), hint=hint, log=log) from error
    except KeyboardInterrupt:
        current.done("✗", "interrupted")
        raise
    current.done("✓", current.result)


def explain(error: StepFailedError) -> str:
    """The failure as text: what, the last lines of the log, what to do."""
    parts = [f"\n{error}"]
    if error.log is not None and error.log.is_file():
        tail = error.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        parts.append(f"\nThe last lines of {error.log}:\n" + "\n".join(f"  | {line}" for line in tail))
    if error.hint:
        parts.append(f"\nWhat to do: {error.hint}")
    return printable("\n".join(parts))
