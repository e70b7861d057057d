"""The score of predictions against what happened, as it grows: the arithmetic behind the scoreboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from flight_delays.contract import BUCKETS, SPLITS
from flight_delays.model import metrics

WINDOW: Final = 1000
"""Answers in the sliding window."""
CURVE: Final = 200
"""Maximum number of points of the window's course; when there are more, every second one goes."""


class Scoreboard:
    """Flights whose delay is known, and the answers to them as they come.

    `arrival_delays` in minutes, `carriers` and `origins` are of the same flights, shape (n,).
    """

    def __init__(self, arrival_delays: Iterable[float], carriers: Iterable[str], origins: Iterable[str]) -> None:
        delays = np.asarray(list(arrival_delays), dtype=float)
        # A delay on a split belongs to the bucket above it, as in `features.arrival_bucket`.
        self._labels = np.searchsorted(np.asarray(SPLITS[1:-1]), delays, side="right")
        self._groups = {"ByCarrier": np.asarray(list(carriers)), "ByOrigin": np.asarray(list(origins))}
        self._probabilities = np.zeros((len(delays), len(BUCKETS)))
        self._answered: list[int] = []
        self._versions: Counter[str] = Counter()
        self._curve: list[tuple[int, float, float]] = []
        self._step = 1
        self.rejected = 0

    def add(self, number: int, probabilities: Sequence[float], version: str) -> None:
        """The answer to flight `number` (0..n-1): a probability for each bucket, and the model that gave it."""
        self._probabilities[number] = probabilities
        self._answered.append(number)
        self._versions[version] += 1

    def summary(self) -> dict[str, Any]:
        """All scores so far, in types that MongoDB and JSON know.

        `SoFar`, `Window` and the values of `ByCarrier` and `ByOrigin` are `registry.Scores`; None before the first
        answer. `Curve` has the answers so far, and the window's accuracy and log-loss then.
        """
        found: dict[str, Any] = {
            "Answered": len(self._answered),
            "Rejected": self.rejected,
            "ModelVersions": dict(self._versions),
        }
        if not self._answered:
            confusion = np.zeros((len(BUCKETS),) * 2, dtype=int).tolist()
            none: dict[str, Any] = {
                "SoFar": None,
                "Window": None,
                "Calibration": [],
                "Curve": [],
                "Confusion": confusion,
            }
            return found | none | {name: {} for name in self._groups}
        order = np.asarray(self._answered)
        labels, probabilities = self._labels[order], self._probabilities[order]
        window = metrics.score(labels[-WINDOW:], probabilities[-WINDOW:])
        self._note(len(order), window.accuracy, window.log_loss)
        for name, of in self._groups.items():
            scores = metrics.by_group(of[order], labels, probabilities)
            found[name] = {key: score.model_dump() for key, score in scores.items()}
        return found | {
            "SoFar": metrics.score(labels, probabilities).model_dump(),
            "Window": window.model_dump(),
            "Calibration": [each.model_dump() for each in metrics.calibration(labels, probabilities)],
            "Confusion": metrics.confusion(labels, probabilities.argmax(axis=1)).tolist(),
            "Curve": [list(point) for point in self._curve],
        }

    def _note(self, answered: int, accuracy: float, log_loss: float) -> None:
        if not self._curve or answered >= self._curve[-1][0] + self._step:
            self._curve.append((answered, accuracy, log_loss))
        if len(self._curve) > CURVE:
            self._curve = self._curve[1::2]
            self._step = 2 * (self._curve[-1][0] - self._curve[0][0]) // len(self._curve)
