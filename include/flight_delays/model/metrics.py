"""How good probabilities of the arrival buckets are: scores and the two baselines that any model must beat.

Everywhere `labels` is an integer array of shape (n,) with the buckets 0..3 that came true, and `probabilities` a float
array of shape (n, 4) whose rows sum to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flight_delays.contract import BUCKETS
from flight_delays.model.registry import Bin, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Integers = NDArray[np.integer]

CLASSES = len(BUCKETS)


def score(labels: Integers, probabilities: Floats) -> Scores:
    """All scores of `probabilities` against what happened; macro-F1 and log-loss as in scikit-learn.

    The expected calibration error is that of Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    """
    predictions = probabilities.argmax(axis=1)
    counts = confusion(labels, predictions)
    both = counts.sum(axis=0) + counts.sum(axis=1)  # 0 where a bucket neither happened nor was predicted: its F1 is 0
    f1 = np.divide(2 * counts.diagonal(), both, out=np.zeros(CLASSES), where=both > 0)
    # Clipped, so that one impossible flight does not make the log-loss infinite.
    given = np.clip(probabilities[np.arange(len(labels)), labels], np.finfo(np.float64).eps, 1)
    gaps = (abs(each.accuracy - each.confidence) * each.rows for each in calibration(labels, probabilities))
    return Scores(
        rows=len(labels),
        accuracy=float((predictions == labels).mean()),
        macro_f1=float(f1.mean()),
        log_loss=float(-np.log(given).mean()),
        brier=float(((probabilities - np.eye(CLASSES)[labels]) ** 2).sum(axis=1).mean()),
        calibration_error=sum(gaps) / len(labels),
    )


def calibration(labels: Integers, probabilities: Floats, bins: int = 15) -> tuple[Bin, ...]:
    """The calibration curve of the most likely bucket: bins of equal width, empty ones left out."""
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    rows, sure, right = (np.bincount(place, weights=each, minlength=bins) for each in (None, confidence, hit))
    return tuple(
        Bin(confidence=sure[n] / rows[n], accuracy=right[n] / rows[n], rows=int(rows[n])) for n in rows.nonzero()[0]
    )


def confusion(labels: Integers, predictions: Integers) -> Integers:
    """Numbers of flights, shape (4, 4): a row for each bucket that came true, a column for each predicted."""
    counts: Integers = np.zeros((CLASSES, CLASSES), dtype=int)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def by_group(groups: NDArray[np.object_], labels: Integers, probabilities: Floats) -> dict[str, Scores]:
    """The scores of each group of rows, most rows first; `groups` names each row's, shape (n,)."""
    names, place, rows = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    return {
        str(names[n]): score(labels[place == n], probabilities[place == n]) for n in np.argsort(-rows, kind="stable")
    }


def delay_bin(departure_delay: Floats) -> Integers:
    """The bin 0..`DELAY_BINS`-1 of departure delays in minutes: one a minute from -20 to 59, the ends take the rest."""
    bins: Integers = (np.clip(np.floor(departure_delay), -20, 59) + 20).astype(int)
    return bins


DELAY_BINS = 80


def commonest_bucket(training_labels: Integers) -> Floats:
    """The first baseline: the same for every flight, the buckets' frequencies in training, shape (4,)."""
    frequencies: Floats = np.bincount(training_labels, minlength=CLASSES) / len(training_labels)
    return frequencies


def departure_delay_alone(training_delay: Floats, training_labels: Integers) -> Floats:
    """The second baseline: the buckets' frequencies in training by departure delay, shape (`DELAY_BINS`, 4).

    To be indexed by `delay_bin`. Each bin starts with one flight spread like all of them, so that none is empty and no
    bucket impossible.
    """
    table = np.tile(commonest_bucket(training_labels), (DELAY_BINS, 1))
    np.add.at(table, (delay_bin(training_delay), training_labels), 1)
    frequencies: Floats = table / table.sum(axis=1, keepdims=True)
    return frequencies
