"""The plain-Python side of the features; tests/integration/test_training.py compares it with Spark's."""

import datetime as dt

import pytest

from flight_delays.contract import date_parts
from flight_delays.model.features import CATEGORICAL, NUMERIC


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (dt.date(2013, 1, 1), (1, 1, 2)),  # a Tuesday
        (dt.date(2016, 12, 25), (360, 25, 7)),  # a Sunday in a leap year; the original served it as 0 or 6
        (dt.date(2016, 2, 29), (60, 29, 1)),  # a Monday
        (dt.date(2015, 12, 31), (365, 31, 4)),
        (dt.date(2016, 12, 31), (366, 31, 6)),
    ],
)
def test_date_parts(day, expected):
    assert date_parts(day) == expected


def test_a_week_is_one_to_seven():
    monday = dt.date(2013, 7, 1)
    assert [date_parts(monday + dt.timedelta(days)).DayOfWeek for days in range(7)] == [1, 2, 3, 4, 5, 6, 7]


def test_the_label_is_no_feature():
    assert not {"ArrDelay", "ArrDelayBucket"} & {*CATEGORICAL, *NUMERIC}
