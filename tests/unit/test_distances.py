"""The pairs file: read whole or not at all; airports, carriers and the great circle."""

from __future__ import annotations

from pathlib import Path

import pytest

from flight_delays.contract import Pair
from flight_delays.data.airports import carriers, great_circle_miles, reference
from flight_delays.data.distances import PAIRS_FILE, fetch_pairs, read_pairs, with_flown_pairs
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.errors import DataError
from tests.flights import import_records

GOOD = '{"Origin":"ATL","Dest":"SFO","Distance":2139.0}'


def test_the_projects_pairs() -> None:
    pairs = read_pairs(fetch_pairs(None, Path("unused")))
    assert len(pairs) == 4696
    assert Pair(Origin="ATL", Dest="SFO", Distance=2139.0) in pairs


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 3: Invalid JSON"),
        ("[]", "line 3: .*object"),
        ('{"Origin":"SFO","Distance":2139.0}', "line 3: Dest: Field required"),
        ('{"Origin":"SFO","Dest":"ATL","Distance":"2139"}', "line 3: Distance: .*number"),
        ('{"Origin":"SFO","Dest":"ATL","Distance":0}', "line 3: Distance: .*greater than or equal to 1"),
        ('{"Origin":"SFO","Dest":"ATL","Distance":NaN}', "line 3: "),
        ('{"Origin":"sfo","Dest":"ATL","Distance":2139}', "line 3: Origin: .*pattern"),
        ('{"Origin":"SFO","Dest":"SFO","Distance":2139}', "line 3: .*Dest must differ from Origin"),
        ('{"Origin":"ATL","Dest":"SFO","Distance":2140}', "line 3: ATL-SFO has another distance than in line 1"),
        ('{"Origin":"ATL","Dest":"S\xff","Distance":2140}', "line 3: "),
    ],
)
def test_a_malformed_line_is_reported_with_its_number(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(f"{GOOD}\n\n{line}\n{GOOD}\n".encode("latin-1"))
    with pytest.raises(DataError, match=f"pairs.jsonl: {problem}.*Nothing was imported"):
        read_pairs(path)


def test_all_malformed_lines_are_counted_and_the_first_ten_shown(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{GOOD}\n" + "x\n" * 25)
    with pytest.raises(DataError, match=r"line 11: .*and 15 more") as error:
        read_pairs(path)
    assert "line 12" not in str(error.value)
    path.write_text("\n")
    with pytest.raises(DataError, match="no pair in it"):
        read_pairs(path)
    with pytest.raises(DataError, match="not a file"):
        read_pairs(tmp_path / "absent")


def test_pairs_that_only_the_records_have_are_added_and_the_file_wins(tmp_path: Path) -> None:
    assert with_flown_pairs(read_pairs(PAIRS_FILE), tmp_path) == read_pairs(PAIRS_FILE)
    import_records(NycFlights13(), records_dir=tmp_path, months="2013-01")
    given = [Pair(Origin="JFK", Dest="SFO", Distance=1.0)]
    pairs = {(pair.Origin, pair.Dest): pair.Distance for pair in with_flown_pairs(given, tmp_path)}
    assert pairs["JFK", "SFO"] == 1.0
    assert pairs["JFK", "LAX"] == 2475.0
    assert len(with_flown_pairs(read_pairs(PAIRS_FILE), tmp_path)) > 4696


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
