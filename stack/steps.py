"""What a person sees of long work: one line a step, with its state and the time it took. Standard library only."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flight_delays.errors import sentence
from flight_delays.infra.printable import one_line, printable

TAIL_LINES = 15
STATE_COLUMNS = 46
"""With mark, title and seconds, a line has 80."""
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
        if self._live:
            self._show("…", "")

    def say(self, state: str) -> None:
        """Shows how it stands; off a terminal only where that changed."""
        if self._live:
            self._show("…", state)
        elif state != self.result:
            print(_below(f"{self._title}: {state} ({time.monotonic() - self._begin:.0f} s)"), flush=True)
        self.result = state

    def done(self, mark: str, state: str) -> None:
        """Shows the final state."""
        fits = len(one_line(state)) <= STATE_COLUMNS
        self._show(mark, state if fits else "", end="\n")
        if not fits:
            print(_below(one_line(state)), flush=True)

    def _show(self, mark: str, state: str, *, end: str = "") -> None:
        seconds = time.monotonic() - self._begin
        line = f"{mark} {self._title:<22} {one_line(state):<{STATE_COLUMNS}.{STATE_COLUMNS}} {seconds:6.1f} s"
        print(f"\r\x1b[K{line}" if self._live else line, end=end, flush=True)


def _below(text: str) -> str:
    wrapper = textwrap.TextWrapper(80 - 4, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(wrapper.fill(text), " " * 4)


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
