"""What the benchmarks measure (`Plan`), and what came out (`Results`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

RATE: Final = 10.0
"""Requests a second, where nothing else is said."""
REALTIME: Final = "real-time mode, 10/s"
BUSY: Final = "real-time mode, 200/s"
MICROBATCH: Final = "micro-batches, the product's sink, 10/s"
ORIGINAL: Final = "micro-batches, MongoDB's connector, 10/s"


@dataclass(frozen=True)
class Row:
    """A line of the table: what, how much, what it must reach, and whether it does (None: no bound)."""

    what: str
    measured: str
    must: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class BatchDuration:
    """One duration of a real-time batch: milliseconds of the wait at 10/s, and what kill -9 near its end costs."""

    seconds: int
    p50: float
    p99: float
    longest: float
    answered_again: int
    lost: int
    server_seconds: float
    """From the kill until the Spark Connect server answered again."""
    reconcile_seconds: float
    """From the call of `predictor.reconcile` to the first answer."""


@dataclass
class Results:
    """All that was measured; `waits` are seconds from accepted to answered, by mode."""

    rows: list[Row] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=dict)
    durations: list[BatchDuration] = field(default_factory=list)
    machine: str = ""
    minutes: float = 0

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Results:
        """Results that were kept as JSON."""
        rows = [Row(**row) for row in kept["rows"]]
        return cls(**{**kept, "rows": rows, "durations": [BatchDuration(**one) for one in kept["durations"]]})

    def add(self, what: str, measured: str, must: str = "", met: bool | None = None) -> None:
        """Adds a line and shows it."""
        self.rows.append(Row(what, measured, must, met))
        mark = {True: "✓", False: "✗ MISSED", None: "·"}[met]
        print(f"    {mark} {what}: {measured}" + (f" (must: {must})" if must else ""), flush=True)


@dataclass(frozen=True)
class Plan:
    """How long and how often: the whole run takes up to 45 minutes, the quick one up to 5."""

    latency_seconds: float = 300
    busy_seconds: float = 90
    compared_seconds: float = 60
    burst: int = 50_000
    runs: int = 3
    swaps: int = 6
    durations: tuple[int, ...] = (10, 30, 60, 300)


QUICK: Final = Plan(
    latency_seconds=20, busy_seconds=10, compared_seconds=10, burst=10_000, runs=1, swaps=2, durations=(10,)
)
