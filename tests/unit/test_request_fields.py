"""A new field of a request is nowhere forgotten; `contract.Flight` lists the places."""

from __future__ import annotations

import re

import pytest

from flight_delays.contract import ENTERED, GAINS, WEATHER, DepartureConditions, Flight, Pair
from flight_delays.data import records
from flight_delays.data.conditions import WEATHER_COLUMNS
from flight_delays.data.sources import NUMBERS, TEXTS, bts, nycflights13
from flight_delays.model.features import NAMED, REQUIRED
from flight_delays.settings import PROJECT
from webapp.forms import ACCEPTED, RESERVED, FlightForm

MADE = {"UUID", "Timestamp", "Canary", "Replay"}
"""Made by who sends the request."""
LEARNED = {"FlightDate", *REQUIRED, *NAMED, "CRSDepTime", "CRSArrTime", *WEATHER, *GAINS}
"""Read by `features.with_features`."""
NOT_LEARNED = {*MADE, "FlightNum"}
SCHEDULED = {"CRSDepTime", "CRSArrTime"}
FIELDS = set(Flight.model_fields)


def test_each_field_is_entered_looked_up_or_made() -> None:
    assert {*ENTERED, *DepartureConditions.model_fields, *Pair.model_fields, *MADE} == FIELDS, "see contract.Flight"


def test_what_is_entered_is_in_the_form_and_on_the_page() -> None:
    page = (PROJECT / "webapp" / "templates" / "predict_kafka.html").read_text()
    assert set(FlightForm.model_fields) == set(ACCEPTED) == set(ENTERED)
    assert set(re.findall(r'call field\("(\w+)"', page)) == set(ENTERED)
    assert FIELDS - set(ENTERED) <= RESERVED, "nobody enters what the system sets"


def test_what_is_looked_up_is_known_to_the_import() -> None:
    assert set(DepartureConditions.model_fields) == {*SCHEDULED, *WEATHER_COLUMNS.values(), *GAINS}


def test_each_field_is_learned_from_or_declared_as_not() -> None:
    assert FIELDS - LEARNED == NOT_LEARNED


def test_the_records_have_what_is_learned_from_and_what_a_replay_asks() -> None:
    assert (FIELDS & LEARNED) - {*WEATHER, *GAINS} | set(ENTERED) <= set(records.schema().names)


@pytest.mark.parametrize("source", [bts, nycflights13])
def test_each_source_has_the_columns_of_the_records(source: object) -> None:
    assert {*NUMBERS, *TEXTS} <= set(source._COLUMNS.values())  # type: ignore[attr-defined]
