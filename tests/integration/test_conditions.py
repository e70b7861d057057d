"""What is known at departure, in a real MongoDB-wire server."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pymongo.database import Database

from flight_delays.contract import DATABASE, Collection, DepartureConditions
from flight_delays.data import conditions, records
from flight_delays.data.sources.nycflights13 import NycFlights13
from tests.flights import import_records

pytestmark = pytest.mark.integration

FLIGHT = {"Carrier": "UA", "FlightNum": "1284", "Origin": "EWR", "Dest": "SFO", "FlightDate": "2013-12-20"}


@pytest.fixture(scope="module")
def december(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    import_records(NycFlights13(), records_dir=folder, months="2013-12")
    return folder


@pytest.fixture(scope="module")
def documents(december: Path) -> list[dict[str, Any]]:
    weather = conditions.read_weather(conditions.fetch_weather(None, december))
    return [
        *conditions.weather_documents(weather),
        *conditions.flight_documents(records.month_files(december)),
    ]


@pytest.fixture
def known(mongo: Database[dict[str, Any]], documents: list[dict[str, Any]]) -> Database[dict[str, Any]]:
    """The database with the conditions of all of December 2013."""
    conditions.import_documents(mongo[Collection.CONDITIONS], documents)
    return mongo


def test_importing_twice_writes_once_and_a_change_is_taken(
    known: Database[dict[str, Any]], documents: list[dict[str, Any]]
) -> None:
    collection, count = known[Collection.CONDITIONS], len(documents)
    assert conditions.import_documents(collection, documents) == {"documents": count, "written": 0}
    assert collection.count_documents({}) == count > 5000
    collection.delete_many({"_id": {"$in": [each["_id"] for each in documents[:300]]}})  # as if cut off half-way
    changed = documents[-1] | {"CRSDepTime": "0001"}
    assert conditions.import_documents(collection, [*documents[:-1], changed])["written"] == 301
    assert collection.find_one({"_id": changed["_id"]}) == changed
    assert collection.count_documents({}) == count


def test_what_is_found_is_what_records_and_weather_say(known: Database[dict[str, Any]], december: Path) -> None:
    found = conditions.find_conditions(known, FLIGHT)
    assert found == DepartureConditions(**found).model_dump(exclude_none=True), "a valid part of a message"
    flights = pd.concat(pd.read_parquet(file) for file in records.month_files(december))
    flights["Gain"] = flights["ArrDelay"] - flights["DepDelay"]
    into = flights[flights["Dest"] == "SFO"]
    assert found["DestGainYesterday"] == into[into["FlightDate"] == dt.date(2013, 12, 19)]["Gain"].mean()
    week = into["FlightDate"].between(dt.date(2013, 12, 13), dt.date(2013, 12, 19))
    assert found["DestGain7Days"] == into[week]["Gain"].mean()
    same = flights[(flights["Carrier"] == "UA") & (flights["FlightNum"] == "1284") & (flights["Dest"] == "SFO")]
    latest = same.sort_values("FlightDate").iloc[-1]
    assert (found["CRSDepTime"], found["CRSArrTime"]) == (latest["CRSDepTime"], latest["CRSArrTime"])
    weather = pd.read_csv(conditions.fetch_weather(None, december))
    place = {"origin": "EWR", "month": 12, "day": 20, "hour": int(latest["CRSDepTime"][:2])}
    [hour] = weather[(weather[list(place)] == pd.Series(place)).all(axis=1)].to_dict("records")
    for theirs, ours in conditions.WEATHER_COLUMNS.items():
        assert found.get(ours) == (None if pd.isna(hour[theirs]) else hour[theirs]), ours


def test_a_given_time_of_departure_counts_and_moves_the_arrival(known: Database[dict[str, Any]]) -> None:
    plain = conditions.find_conditions(known, FLIGHT)
    early = conditions.find_conditions(known, FLIGHT | {"CRSDepTime": "0005"})
    assert early["CRSDepTime"] == "0005"
    assert early["OriginTemperature"] != plain["OriginTemperature"]
    lasts = [
        pd.Timestamp(f"2013-12-20 {times['CRSArrTime']}") - pd.Timestamp(f"2013-12-20 {times['CRSDepTime']}")
        for times in (plain, early)
    ]
    assert lasts[0] == lasts[1]
    assert conditions.find_conditions(known, FLIGHT | {"CRSDepTime": "2359"})["CRSArrTime"] < "0500", "past midnight"


def test_what_is_not_known_is_absent(known: Database[dict[str, Any]]) -> None:
    assert (
        conditions.find_conditions(known, FLIGHT | {"FlightNum": "9", "FlightDate": "2016-12-25", "Dest": "XXX"}) == {}
    )
    unscheduled = conditions.find_conditions(known, FLIGHT | {"FlightNum": "9"})
    assert set(unscheduled) == {"DestGainYesterday", "DestGain7Days"}, "no weather without an hour"
    unnumbered = {name: value for name, value in FLIGHT.items() if name != "FlightNum"}
    for flight in (unnumbered, unnumbered | {"FlightNum": None}):
        assert conditions.find_conditions(known, flight) == unscheduled, "scheduled times are known by the number"
        assert "OriginTemperature" in conditions.find_conditions(known, flight | {"CRSDepTime": "0900"})
    assert conditions.find_conditions(known, FLIGHT | {"FlightNum": "01284"}) == conditions.find_conditions(
        known, FLIGHT
    )
    first = conditions.find_conditions(known, FLIGHT | {"FlightDate": "2013-12-01", "CRSDepTime": "0900"})
    assert "OriginTemperature" in first
    assert not any(name.startswith("DestGain") for name in first), "no flights before"
    later = conditions.find_conditions(known, FLIGHT | {"FlightDate": "2014-01-03"})
    assert "DestGainYesterday" not in later
    assert "DestGain7Days" in later, "some of the seven days are known"


def test_no_look_up_sees_the_flights_own_day_or_later(known: Database[dict[str, Any]], december: Path) -> None:
    """All arrivals from the day of departure on become a thousand minutes late: nothing of it is in the conditions."""
    before = conditions.find_conditions(known, FLIGHT)
    for file in records.month_files(december):
        flights = pd.read_parquet(file)
        flights.loc[flights["FlightDate"] >= dt.date(2013, 12, 20), "ArrDelay"] = 1000.0
        later = december.parent / "later.parquet"
        flights.to_parquet(later)
        assert (
            conditions.import_documents(known[Collection.CONDITIONS], conditions.flight_documents([later]))["written"]
            > 500
        )
    assert conditions.find_conditions(known, FLIGHT) == before
    assert conditions.find_conditions(known, FLIGHT | {"FlightDate": "2013-12-21"})["DestGainYesterday"] > 900


def test_the_dags_tasks_go_through_the_mongodb_provider(
    mongo: Database[dict[str, Any]], airflow_installation: Path
) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.exceptions import AirflowSkipException

    from flight_delays.settings import PROJECT, get_settings

    import_records(NycFlights13(), months="2013-12")
    tasks = DagBag(PROJECT / "dags" / "departure_conditions.py").dags["departure_conditions"].task_dict
    weather = tasks["import_weather"].python_callable({"weather": None})
    flights = tasks["import_flights"].python_callable()
    (event,) = tasks["announce"].python_callable(weather, flights, {"announce": True})
    with pytest.raises(AirflowSkipException):
        next(tasks["announce"].python_callable(weather, flights, {"announce": False}))
    assert event.extra == {"weather": weather, "flights": flights}
    assert weather == {"hours": 26_112, "documents": 1092, "written": 1092}
    stored = mongo.client[DATABASE][Collection.CONDITIONS]
    assert stored.count_documents({}) == weather["documents"] + flights["documents"]
    assert len(pd.read_parquet(get_settings().weather)) == 26_112
