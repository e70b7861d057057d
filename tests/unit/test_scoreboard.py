"""The score of answers as they come."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flight_delays.answers import replay
from flight_delays.answers.scoreboard import CURVE, WINDOW, Scoreboard
from flight_delays.model import metrics

RANDOM = np.random.default_rng(1)
DELAYS = RANDOM.normal(5, 30, 3000)
CARRIERS = RANDOM.choice(["AA", "UA"], 3000)
PROBABILITIES = RANDOM.dirichlet(np.ones(4), 3000)


def board() -> Scoreboard:
    return Scoreboard(DELAYS, CARRIERS, ["EWR"] * 3000)


def test_before_the_first_answer_there_is_no_score() -> None:
    empty = board().summary()
    assert (empty["Answered"], empty["SoFar"], empty["Window"], empty["ByCarrier"]) == (0, None, None, {})
    assert empty["Confusion"] == [[0] * 4] * 4
    assert replay.one_line({"Sent": 0, "Flights": 3000, "Expected": {}, **empty}) == "0 of 3,000 sent, 0 answered"


def test_delays_on_a_split_belong_to_the_bucket_above() -> None:
    delays = [-15.1, -15, -0.1, 0, 29.9, 30]
    one = Scoreboard(delays, ["AA"] * 6, ["EWR"] * 6)
    for number in range(6):
        one.add(number, [0, 0, 0, 1], "v")
    assert [sum(row) for row in one.summary()["Confusion"]] == [1, 2, 2, 1]


def test_scores_are_those_of_the_metrics_in_whatever_order_answers_come() -> None:
    one = board()
    order = RANDOM.permutation(3000)[:2500]
    for number in order:
        one.add(int(number), PROBABILITIES[number].tolist(), "old" if number < 100 else "new")
    found = one.summary()
    labels = np.digitize(DELAYS, [-15, 0, 30])
    assert found["SoFar"] == metrics.score(labels[order], PROBABILITIES[order]).model_dump()
    last = order[-WINDOW:]
    assert found["Window"] == metrics.score(labels[last], PROBABILITIES[last]).model_dump()
    united = order[CARRIERS[order] == "UA"]
    assert found["ByCarrier"]["UA"] == metrics.score(labels[united], PROBABILITIES[united]).model_dump()
    assert sum(found["ModelVersions"].values()) == found["Answered"] == 2500
    assert sum(map(sum, found["Confusion"])) == 2500
    json.dumps(found)  # plain types only: MongoDB takes no numpy
    shown = replay.one_line({"Sent": 2500, "Flights": 3000, "Expected": {}, **found})
    assert shown.startswith("2,500 of 3,000 sent, 2,500 answered; accuracy 0.")


def test_the_course_keeps_a_bounded_number_of_points_in_order() -> None:
    one = board()
    for number in range(3000):
        one.add(number, PROBABILITIES[number].tolist(), "v")
        if number % 3 == 0:
            one.summary()
    curve = one.summary()["Curve"]
    answered = [point[0] for point in curve]
    assert CURVE / 4 < len(curve) <= CURVE
    assert answered == sorted(set(answered))
    assert answered[-1] > 2800
    assert answered[0] < 200
    assert curve[-1][1] == pytest.approx(one.summary()["Window"]["accuracy"], abs=0.05)
