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
    """All scores of `probabilities` against what happened.

    Raises ValueError where the shapes do not fit, there are no rows, or a row is no distribution.
    """
    if probabilities.shape != (len(labels), CLASSES) or not len(labels):
        raise ValueError(
            f"probabilities have shape {probabilities.shape}; expected ({len(labels)}, {CLASSES}) with at least one row"
        )
    # Written so that NaN fails too.
    if not (np.all(probabilities >= 0) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)):
        raise ValueError("a row of the probabilities is no distribution: numbers >= 0 that sum to 1 are expected")
    predictions = probabilities.argmax(axis=1)
    return Scores(
        rows=len(labels),
        accuracy=float((predictions == labels).mean()),
        macro_f1=_macro_f1(labels, predictions),
        log_loss=_log_loss(labels, probabilities),
        brier=float(((probabilities - np.eye(CLASSES)[labels]) ** 2).sum(axis=1).mean()),
        calibration_error=_calibration_error(labels, probabilities),
    )


def _macro_f1(labels: Integers, predictions: Integers) -> float:
    """A bucket that neither happened nor was predicted counts 0, as in scikit-learn with the buckets as `labels`."""
    counts = confusion(labels, predictions)
    both = counts.sum(axis=0) + counts.sum(axis=1)
    return float(np.divide(2 * counts.diagonal(), both, out=np.zeros(CLASSES), where=both > 0).mean())


def _log_loss(labels: Integers, probabilities: Floats) -> float:
    """Clipped at the machine's epsilon, as in scikit-learn, so that one impossible flight does not make it infinite."""
    given = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(given, np.finfo(np.float64).eps, 1)).mean())


def _calibration_error(labels: Integers, probabilities: Floats) -> float:
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599) of `calibration`'s bins."""
    bins = calibration(labels, probabilities)
    return sum(abs(each.accuracy - each.confidence) * each.rows for each in bins) / len(labels)


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
