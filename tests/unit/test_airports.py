"""Airports, carriers and the great circle, against the 4,696 known distances."""

from __future__ import annotations

import pytest

from flight_delays.data.airports import carriers, great_circle_miles, reference
from flight_delays.data.distances import PAIRS_FILE, read_pairs


def test_every_airport_of_the_known_pairs_has_coordinates() -> None:
    pairs = read_pairs(PAIRS_FILE)
    assert {code for pair in pairs for code in (pair.Origin, pair.Dest)} <= set(reference())
    assert all(-90 <= each.latitude <= 90 and -180 <= each.longitude <= 180 for each in reference().values())


def test_the_great_circle_is_close_to_the_known_distances() -> None:
    airports = reference()
    errors = sorted(
        abs(great_circle_miles(airports[pair.Origin], airports[pair.Dest]) - pair.Distance)
        for pair in read_pairs(PAIRS_FILE)
    )
    assert errors[int(len(errors) * 0.9)] < 3.8
    assert errors[-1] < 15


def test_great_circle_of_places_without_a_rounding_trap() -> None:
    airports = reference()
    assert great_circle_miles(airports["JFK"], airports["JFK"]) == 0
    assert great_circle_miles(airports["JFK"], airports["SFO"]) == great_circle_miles(airports["SFO"], airports["JFK"])
    pole, antipole = airports["JFK"]._replace(latitude=90.0), airports["JFK"]._replace(latitude=-90.0)
    assert great_circle_miles(pole, antipole) == pytest.approx(12_436.8, abs=0.1)  # half of 2 pi 3,958.76


def test_carriers_of_the_flights_and_beyond() -> None:
    names = carriers()
    assert names["AA"] == "American Airlines Inc."
    assert {"NK", "G4", "QX", "OH", "YX", "9E", "YV"} <= set(names)
    assert all(names.values())
