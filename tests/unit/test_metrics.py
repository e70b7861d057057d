"""The scores, against figures worked out by hand or by scikit-learn's definitions."""

import math

import numpy as np
import pytest

from flight_delays.model import metrics

LABELS = np.array([0, 1, 2, 3])


def test_certain_and_right_is_perfect():
    scores = metrics.score(LABELS, np.eye(4))
    assert scores.model_dump() == {
        "rows": 4,
        "accuracy": 1,
        "macro_f1": 1,
        "log_loss": 0,
        "brier": 0,
        "calibration_error": 0,
    }


def test_knowing_nothing():
    scores = metrics.score(LABELS, np.full((4, 4), 0.25))
    assert scores.accuracy == 0.25
    assert scores.macro_f1 == pytest.approx(0.1)  # bucket 0: precision 1/4, recall 1, F1 0.4; the others 0
    assert scores.log_loss == pytest.approx(math.log(4))
    assert scores.brier == pytest.approx(0.75)
    assert scores.calibration_error == pytest.approx(0)


def test_overconfidence_shows_in_calibration_and_stays_finite():
    wrong = np.eye(4)[[1, 0, 2, 3]]  # certain each time, right in half of the cases
    scores = metrics.score(LABELS, wrong)
    assert scores.calibration_error == pytest.approx(0.5)
    assert scores.brier == pytest.approx(1)
    assert scores.log_loss == pytest.approx(-math.log(np.finfo(float).eps) / 2)


def test_macro_f1_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    predictions = np.array([0, 0, 1, 1, 2, 2])
    # F1: 0.8, 0.5, 2/3, and 0 for the bucket that never came
    assert metrics.score(labels, np.eye(4)[predictions]).macro_f1 == pytest.approx((0.8 + 0.5 + 2 / 3) / 4)


def test_the_mean_over_rows_not_over_bins():
    # 3 flights at 0.9 of which all hit (gap 0.1), 1 flight at 0.5 that misses (gap 0.5): (3 * 0.1 + 0.5) / 4
    sure, unsure = [0.9, 0.1, 0, 0], [0.5, 0.3, 0.2, 0]
    scores = metrics.score(np.array([0, 0, 0, 1]), np.array([sure, sure, sure, unsure]))
    assert scores.calibration_error == pytest.approx(0.2)


def test_baselines_are_the_frequencies_in_training():
    labels = np.array([0, 0, 1, 3])
    assert metrics.commonest_bucket(labels).tolist() == [0.5, 0.25, 0, 0.25]
    table = metrics.departure_delay_alone(np.array([-5.0, -5.0, -5.0, 200.0]), labels)
    assert table.shape == (metrics.DELAY_BINS, 4)
    assert np.allclose(table.sum(axis=1), 1)
    assert table[metrics.delay_bin(np.array([-5.0]))[0]].tolist() == [2.5 / 4, 1.25 / 4, 0, 0.25 / 4]
    assert table[metrics.delay_bin(np.array([1000.0]))[0]].argmax() == 3, "the last bin takes every long delay"
    assert table[metrics.delay_bin(np.array([30.0]))[0]].tolist() == [0.5, 0.25, 0, 0.25], "never seen: as in all"


def test_delay_bins_are_minutes_with_open_ends():
    delays = np.array([-1440.0, -20.0, -19.5, -19.0, 0.0, 0.9, 59.0, 4320.0])
    assert metrics.delay_bin(delays).tolist() == [0, 0, 0, 1, 20, 20, 79, 79]


def test_the_curve_behind_the_calibration_error():
    sure, unsure = [0.9, 0.1, 0, 0], [0.5, 0.3, 0.2, 0]
    low, high = metrics.calibration(np.array([0, 0, 0, 1]), np.array([sure, sure, sure, unsure]))
    assert (low.confidence, low.accuracy, low.rows) == (0.5, 0, 1)
    assert (high.confidence, high.accuracy, high.rows) == (pytest.approx(0.9), 1, 3)


def test_confusion_has_a_row_for_what_happened():
    counts = metrics.confusion(np.array([0, 0, 3]), np.array([0, 1, 2]))
    assert counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_groups_are_scored_apart_and_the_largest_comes_first():
    found = metrics.by_group(np.array(["UA", "AA", "UA"], dtype=object), np.array([0, 1, 2]), np.eye(4)[[0, 0, 2]])
    assert [(name, scores.rows, scores.accuracy) for name, scores in found.items()] == [("UA", 2, 1), ("AA", 1, 0)]
