"""The endpoint that takes a flight."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition
from flask.testing import FlaskClient
from pymongo.database import Database

from flight_delays.contract import REQUEST_TOPIC, Collection, DepartureConditions, is_uuid, parse_timestamp
from flight_delays.data import conditions
from flight_delays.infra.kafka import partition_of
from flight_delays.settings import Settings
from tests.conftest import NO_MOUNT
from tests.proof.faults import can_mount, small_disks
from tests.web.form import FLIGHT, SUBMIT
from webapp import create_app
from webapp.services import Services

pytestmark = pytest.mark.integration


def message_of(stack: Any, uuid: str) -> tuple[dict[str, Any], int]:
    """The message with that key, and its partition; looked for from the beginning of the topic."""
    consumer = Consumer({"bootstrap.servers": stack.settings.kafka_bootstrap, "group.id": "test"})
    consumer.assign([TopicPartition(REQUEST_TOPIC, number, 0) for number in range(stack.settings.topic_partitions)])
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is not None and message.error() is None and message.key() == uuid.encode():
                return json.loads(message.value()), message.partition()
        raise AssertionError(f"{uuid} is not on {REQUEST_TOPIC}")
    finally:
        consumer.close()


def test_accepted_flight_is_on_the_topic(client: FlaskClient, stack: Any) -> None:
    accepted = client.post(
        SUBMIT, data={**FLIGHT, "Carrier": " aa", "Origin": "atl", "extra": "ignored", "DayOfWeek": "9"}
    )

    assert accepted.status_code == 202
    uuid = accepted.json["id"]
    assert accepted.json == {"status": "OK", "id": uuid}
    assert is_uuid(uuid)
    assert accepted.headers["Location"] == f"{SUBMIT}/response/{uuid}"
    assert client.get(accepted.headers["Location"]).json == {"status": "WAIT", "id": uuid}
    message, partition = message_of(stack, uuid)
    assert partition == partition_of(uuid, stack.settings.topic_partitions)
    age = dt.datetime.now(dt.UTC) - parse_timestamp(message.pop("Timestamp"))
    assert dt.timedelta(0) <= age < dt.timedelta(seconds=30)
    assert message == {
        "UUID": uuid,
        "Carrier": "AA",
        "FlightDate": "2016-12-25",
        "FlightNum": "1519",
        "Origin": "ATL",
        "Dest": "SFO",
        "DepDelay": 5.0,
        "Distance": 2139.0,
        "DayOfYear": 360,
        "DayOfMonth": 25,
        "DayOfWeek": 7,
    }


def test_json_is_taken_too(client: FlaskClient, stack: Any) -> None:
    accepted = client.post(SUBMIT, json={**FLIGHT, "DepDelay": -3.5, "FlightNum": 1519, "CRSDepTime": "0905"})

    message, _ = message_of(stack, accepted.json["id"])
    assert (message["DepDelay"], message["FlightNum"], message["CRSDepTime"]) == (-3.5, "1519", "0905")


@pytest.mark.parametrize("given", [None, "", " "])
def test_a_flight_number_may_be_absent(client: FlaskClient, stack: Any, given: str | None) -> None:
    others = {name: value for name, value in FLIGHT.items() if name != "FlightNum"}
    bodies = [
        {"json": others | {"FlightNum": given}},
        {"data": others | ({} if given is None else {"FlightNum": given})},
    ]
    for body in bodies:
        accepted = client.post(SUBMIT, **body)
        assert accepted.status_code == 202
        assert "FlightNum" not in message_of(stack, accepted.json["id"])[0]


def test_what_is_known_at_departure_is_in_the_message(
    client: FlaskClient, stack: Any, mongo: Database[dict[str, Any]]
) -> None:
    hours: dict[str, list[float | None]] = {name: [None] * 24 for name in conditions.WEATHER}
    hours["OriginTemperature"] = [float(hour) for hour in range(24)]
    mongo[Collection.CONDITIONS].insert_many(
        [
            {"_id": "schedule/AA/1519/ATL/SFO", "CRSDepTime": "0705", "CRSArrTime": "0930"},
            {"_id": "gain/SFO/2016-12-24", "sum": -12.0, "count": 2},
            {"_id": "gain/SFO/2016-12-18", "sum": 3.0, "count": 1},
            {"_id": "gain/SFO/2016-12-25", "sum": 900.0, "count": 1},
        ]
    )
    names = [*DepartureConditions.model_fields]

    message, _ = message_of(stack, client.post(SUBMIT, data=FLIGHT).json["id"])
    assert {name: message[name] for name in names if name in message} == {
        "CRSDepTime": "0705",
        "CRSArrTime": "0930",
        "DestGainYesterday": -6.0,
        "DestGain7Days": -3.0,
    }

    for flight, known in ((FLIGHT | {"FlightNum": "01519"}, True), (FLIGHT | {"FlightNum": ""}, False)):
        message, _ = message_of(stack, client.post(SUBMIT, data=flight).json["id"])
        assert ("CRSDepTime" in message) == known, "scheduled times are known by the number"
        assert message.get("FlightNum") == ("1519" if known else None)

    mongo[Collection.CONDITIONS].insert_one({"_id": "weather/ATL/2016-12-25", **hours})
    message, _ = message_of(stack, client.post(SUBMIT, data=FLIGHT | {"CRSDepTime": "23:35"}).json["id"])
    assert (message["CRSDepTime"], message["CRSArrTime"]) == ("2335", "0200"), "what the client says wins"
    assert {name: message[name] for name in conditions.WEATHER if name in message} == {"OriginTemperature": 23.0}


def test_a_changed_distance_is_taken_within_a_minute(
    client: FlaskClient, stack: Any, mongo: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = create_app(stack.settings).extensions[Services.KEY]
    assert found.distance("ATL", "SFO") == 2139.0
    mongo[Collection.DISTANCES].update_one({"Origin": "ATL", "Dest": "SFO"}, {"$set": {"Distance": 2140.0}})
    assert found.distance("ATL", "SFO") == 2139.0
    monkeypatch.setattr("webapp.services.REFRESH_SECONDS", 1e-6)
    assert found.distance("ATL", "SFO") == 2140.0


def test_pair_without_a_distance_gets_the_great_circle(client: FlaskClient, stack: Any) -> None:
    accepted = client.post(SUBMIT, data={**FLIGHT, "Origin": "BQN", "Dest": "ANC"})

    message, _ = message_of(stack, accepted.json["id"])
    assert message["Distance"] == pytest.approx(4867, abs=15)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("DepDelay", "", "missing_field"),
        ("DepDelay", "late", "invalid_format"),
        ("DepDelay", "NaN", "invalid_format"),
        ("DepDelay", "inf", "invalid_format"),
        ("DepDelay", "1_0", "invalid_format"),
        ("DepDelay", "1e9", "out_of_range"),
        ("DepDelay", "1e999", "out_of_range"),
        ("DepDelay", True, "wrong_type"),
        ("DepDelay", float("nan"), "out_of_range"),
        ("DepDelay", 10**400, "out_of_range"),
        ("DepDelay", [5], "wrong_type"),
        ("Carrier", None, "missing_field"),
        ("Carrier", " ", "missing_field"),
        ("FlightDate", "2016-13-45", "out_of_range"),
        ("FlightDate", "25/12/2016", "invalid_format"),
        ("FlightDate", "0001-01-01", "out_of_range"),
        ("FlightNum", "AA1519", "invalid_format"),
        ("FlightNum", "15 19", "invalid_format"),
        ("FlightNum", -5, "invalid_format"),
        ("FlightNum", 1519.0, "wrong_type"),
        ("FlightNum", True, "wrong_type"),
        ("FlightNum", [], "wrong_type"),
        ("Carrier", "ZZ", "unknown_carrier"),
        ("Carrier", "A" * 200, "invalid_format"),
        ("Carrier", {"$ne": 1}, "wrong_type"),
        ("Origin", "QQQ", "unknown_airport"),
        ("Origin", "<script>alert(1)</script>", "invalid_format"),
        ("Dest", "\ud800", "wrong_type"),
        ("Dest", "ATL", "same_airport"),
        ("Dest", "atl", "same_airport"),
        ("CRSDepTime", "2460", "invalid_format"),
        ("CRSDepTime", "9:05", "invalid_format"),
        ("CRSDepTime", 905, "wrong_type"),
        ("CRSArrTime", "0905", "reserved_field"),
        ("OriginTemperature", 39, "reserved_field"),
        ("Canary", True, "reserved_field"),
        ("Replay", "x", "reserved_field"),
        ("UUID", "x", "reserved_field"),
        ("Distance", 1, "reserved_field"),
    ],
)
def test_bad_field_is_named(client: FlaskClient, field: str, value: Any, code: str) -> None:
    refused = client.post(SUBMIT, json={**FLIGHT, field: value})

    assert refused.status_code == 400
    assert (refused.json["code"], refused.json["field"]) == (code, field)
    assert refused.json["message"]
    [error] = refused.json["errors"]
    assert (error["code"], error["field"]) == (code, field)
    assert error["accepted"]


def test_all_bad_fields_are_listed(client: FlaskClient) -> None:
    refused = client.post(SUBMIT, data={"Origin[$gt]": "", "DepDelay": "x", "Carrier": "ZZ", "Canary": "1"})

    assert refused.status_code == 400
    found = {error["field"]: error["code"] for error in refused.json["errors"]}
    assert found == {
        "Carrier": "unknown_carrier",
        "FlightDate": "missing_field",
        "Origin": "missing_field",
        "Dest": "missing_field",
        "DepDelay": "invalid_format",
        "Canary": "reserved_field",
    }
    [carrier] = [error for error in refused.json["errors"] if error["field"] == "Carrier"]
    assert ", AA, " in carrier["accepted"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"DepDelay=5", "text/plain", 400),
        (b"\x00\xff", None, 400),
        (b"", None, 400),
        (b"{", "application/json", 400),
        (b"\xff\xfe\x00", "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b'{"a":' * 3_000, "application/json", 400),
        (b"9" * 10_000, "application/json", 400),
        (b"null", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"DepDelay=%FF%&Carrier=%00", "application/x-www-form-urlencoded", 400),
        (b"no parts", "multipart/form-data; boundary=x", 400),
        (b"a=" + b"x" * 17_000, "application/x-www-form-urlencoded", 413),
        (b'{"a":"' + b"x" * 17_000 + b'"}', "application/json", 413),
        (b"x" * 17_000, "text/plain", 413),
    ],
)
def test_bad_body(client: FlaskClient, body: bytes, content_type: str | None, status: int) -> None:
    refused = client.post(SUBMIT, data=body, content_type=content_type)

    assert refused.status_code == status
    assert refused.json["code"]
    assert refused.json["message"]


def test_kafka_away(client: FlaskClient, stack: Any, tmp_path: Any) -> None:
    app = create_app(stack.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"}))
    begin = time.monotonic()
    refused = app.test_client().post(SUBMIT, data=FLIGHT)

    assert time.monotonic() - begin < 3
    assert refused.status_code == 503
    assert refused.json["code"] == "kafka_unavailable"
    assert int(refused.headers["Retry-After"]) > 0
    health = app.test_client().get("/healthz")
    assert (health.status_code, health.json) == (503, {"status": "down", "kafka": "down", "mongodb": "ok"})


@pytest.mark.skipif(not can_mount(), reason=NO_MOUNT)
def test_a_disk_that_is_almost_full(client: FlaskClient, stack: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with small_disks({home / "kafka": 40}):
        here = create_app(stack.settings.model_copy(update={"home": home})).test_client()
        assert here.post(SUBMIT, data=FLIGHT).status_code == 202
        ballast = home / "kafka" / "ballast"
        ballast.write_bytes(bytes(39 * 1024 * 1024))
        refused = here.post(SUBMIT, data=FLIGHT)
        assert (refused.status_code, refused.json["code"]) == (503, "disk_full")
        assert int(refused.headers["Retry-After"]) > 0
        assert here.get("/healthz").status_code == 200
        ballast.unlink()
        assert here.post(SUBMIT, data=FLIGHT).status_code == 202


def test_mongodb_away(client: FlaskClient, stack: Any) -> None:
    away: Settings = stack.settings.model_copy(update={"mongo_uri": "mongodb://127.0.0.1:1/"})
    app = create_app(away)
    for flight in (FLIGHT, {**FLIGHT, "Origin": "QQQ"}):  # whether QQQ is known only MongoDB can tell
        begin = time.monotonic()
        refused = app.test_client().post(SUBMIT, data=flight)
        assert time.monotonic() - begin < 3
        assert (refused.status_code, refused.json["code"]) == (503, "mongodb_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
    assert app.test_client().post(SUBMIT, data={**FLIGHT, "DepDelay": "x"}).status_code == 400


@pytest.mark.parametrize(("name", "code"), [("kafka", "kafka_unavailable"), ("mongo", "mongodb_unavailable")])
def test_hanging_service(client: FlaskClient, stack: Any, name: str, code: str) -> None:
    """It takes connections but answers nothing, which takes longer to notice than a closed port."""
    process = psutil.Process(stack.supervisor.states()[name]["pid"])
    process.suspend()
    try:
        deadline = time.monotonic() + 30
        while process.status() != psutil.STATUS_STOPPED:  # its other threads run on until its first one is scheduled
            assert time.monotonic() < deadline
        refused = client.post(SUBMIT, data=FLIGHT)
    finally:
        process.resume()

    assert (refused.status_code, refused.json["code"]) == (503, code)
    deadline = time.monotonic() + 30
    while client.post(SUBMIT, data=FLIGHT).status_code != 202:
        assert time.monotonic() < deadline


def test_health(client: FlaskClient) -> None:
    health = client.get("/healthz")

    assert (health.status_code, health.json) == (200, {"status": "ok", "kafka": "ok", "mongodb": "ok"})
