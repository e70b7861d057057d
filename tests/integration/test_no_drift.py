"""Training and serving cannot drift apart: batch and stream give the same digits, messages keep to the schemas."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from flight_delays.answers.store import find_answer
from flight_delays.contract import DEAD_LETTER_TOPIC, REQUEST_TOPIC, RESPONSE_TOPIC, Collection, cleaned, read_request
from flight_delays.data.records import month_files
from flight_delays.infra import mongo
from flight_delays.model import registry
from flight_delays.predictor.state import read_state
from flight_delays.schemas import schema
from tests.conftest import Stack
from tests.integration.line import answer, flight, messages_on, put, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

BATCH = """
import json, sys
from pathlib import Path
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from flight_delays.model.features import with_features
from flight_delays.model import pipeline
asked = json.load(sys.stdin)
spark = SparkSession.builder.remote(asked["spark"]).getOrCreate()
spark.conf.set("spark.sql.session.timeZone", "UTC")
columns = "UUID string, Carrier string, FlightDate string, Origin string, Dest string, DepDelay double, "
columns += "Distance double, CRSDepTime string"
names = [column.split()[0] for column in columns.split(", ")]
rows = spark.createDataFrame([tuple(row.get(name) for name in names) for row in asked["rows"]], columns)
flights = with_features(rows.withColumn("FlightDate", F.col("FlightDate").cast("date")))
for row in pipeline.predict(PipelineModel.load(asked["model"]), flights).toLocalIterator():
    print(json.dumps({**row.asDict(), "FlightDate": str(row.FlightDate)}))
spark.stop()
"""
"""What training judges the model with, on the same model, by the same server, in a process of its own."""


def flown(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the published records as requests."""
    names = ["Carrier", "FlightNum", "Origin", "Dest", "DepDelay", "Distance", "CRSDepTime"]
    return [
        flight(**{name: getattr(row, name) for name in names}, FlightDate=str(row.FlightDate)[:10])
        for row in rows.itertuples()
    ]


@pytest.fixture(scope="module")
def records(line: Stack) -> pd.DataFrame:
    """The published records of the flights that arrived."""
    everything = pd.concat([pd.read_parquet(path) for path in month_files(line.settings.records)])
    return everything[everything["ArrDelay"].notna()].assign(FlightDate=lambda rows: pd.to_datetime(rows["FlightDate"]))


def unseen(count: int) -> list[dict[str, Any]]:
    """Flights with carriers, airports, routes, dates and delays that the training data lack."""
    chance = random.Random(1)
    return [
        flight(
            Carrier=chance.choice(["UA", "AA", "ZZ", "9X"]),
            Origin=chance.choice(["EWR", "ATL", "QQQ"]),
            Dest=chance.choice(["SFO", "BQN", "XXX"]),
            FlightDate=f"20{chance.randrange(10, 60)}-{chance.randrange(1, 13):02d}-{chance.randrange(1, 29):02d}",
            DepDelay=round(chance.uniform(-1440, 4320), 3),
            Distance=chance.uniform(1, 12_500),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def sent(line: Stack, records: pd.DataFrame) -> list[dict[str, Any]]:
    """1,000 flights that the champion has not learned from, one flight of each day, and unseen ones."""
    champion = registry.read_pointer(line.settings.models).champion
    assert champion is not None
    first = registry.load_metadata(line.settings.models, champion).holdout.first
    holdout = records[records["FlightDate"] >= pd.Timestamp(first)].sample(1000, random_state=1)
    messages = [*flown(holdout), *flown(records.drop_duplicates("FlightDate")), *unseen(200)]
    put(line, *(json.dumps(message).encode() for message in messages))
    return messages


@pytest.fixture(scope="module")
def streamed(line: Stack, sent: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The answers in MongoDB, by UUID."""
    uuids = [message["UUID"] for message in sent]
    responses = mongo.connect(line.settings)[Collection.RESPONSES]

    def all_answered() -> dict[str, Any] | None:
        found = {document["_id"]: document for document in responses.find({"_id": {"$in": uuids}})}
        return found if len(found) == len(uuids) else None

    return until(all_answered, 60, f"{len(uuids)} answers")


def test_batch_and_stream_give_the_same_digits(
    line: Stack, sent: list[dict[str, Any]], streamed: dict[str, dict[str, Any]]
) -> None:
    serving = read_state(mongo.connect(line.settings)).serving
    assert serving is not None
    asked = {
        "spark": line.settings.spark_connect_url + f"/;user_id=test;token={line.settings.spark_connect_token}",
        "model": str(registry.pipeline_path(line.settings.models, serving.version)),
        "rows": sent,
    }
    done = subprocess.run(
        [sys.executable, "-c", BATCH], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    batch = [json.loads(row) for row in done.stdout.splitlines()]
    assert len(batch) == len(sent)
    for row in batch:
        stream = streamed[row["UUID"]]
        assert stream["ModelVersion"] == serving.version
        for name in ("Probability", "Prediction", "Route", "DayOfYear", "DayOfMonth", "DayOfWeek", "Distance"):
            assert stream[name] == row[name], (row["UUID"], name)
    assert len({tuple(row["Probability"]) for row in batch}) > 100


def test_days_are_served_as_they_were_learned(records: pd.DataFrame, streamed: dict[str, dict[str, Any]]) -> None:
    """Each day of the three months, as the records that the model learns from have it: 1 = Monday .. 7 = Sunday."""
    names = ["DayOfYear", "DayOfMonth", "DayOfWeek"]
    days = records.drop_duplicates("FlightDate").set_index("FlightDate")
    assert len(days) == 92
    served = {found["FlightDate"].replace(tzinfo=None): found for found in streamed.values()}
    for day, learned in days.iterrows():
        assert [served[day][name] for name in names] == learned[names].tolist(), day
    assert days.loc["2013-10-07", "DayOfWeek"] == 1, "a Monday"
    assert set(days["DayOfWeek"]) == set(range(1, 8))


def test_every_text_counts_in_the_stream(line: Stack, sent: list[dict[str, Any]], streamed: dict[str, Any]) -> None:
    """Changing nothing but the carrier, the origin or the destination changes some probability."""
    database = mongo.connect(line.settings)
    for name, value in (("Carrier", "EV"), ("Origin", "EWR"), ("Dest", "ATL")):
        others = [
            message for message in sent[:1000] if value not in (message[name], message["Origin"], message["Dest"])
        ]
        changed = {message["UUID"]: message | {"UUID": str(uuid4()), name: value} for message in others[:200]}
        put(line, *(json.dumps(message).encode() for message in changed.values()))
        different = 0
        for before, message in changed.items():
            found = until(lambda uuid=message["UUID"]: find_answer(database, uuid), 30, "the answer")
            different += found.document["Probability"] != streamed[before]["Probability"]
        assert different / len(changed) > 0.01, name


def test_messages_on_the_topics_keep_to_the_schemas(line: Stack, sent: list[dict[str, Any]]) -> None:
    broken = flight(DepDelay="5")
    put(line, json.dumps(broken).encode(), json.dumps(flight(FlightNum=None, Carrier="ua")).encode())
    assert answer(line, broken["UUID"])["status"] == "REJECTED"
    for topic, name in ((RESPONSE_TOPIC, "response"), (DEAD_LETTER_TOPIC, "dead_letter"), (REQUEST_TOPIC, "request")):
        validator = Draft202012Validator(schema(name), format_checker=FormatChecker())
        messages = messages_on(line, topic)
        assert messages
        for message in messages:
            if topic != REQUEST_TOPIC:
                validator.validate(json.loads(message.value()))
            elif _valid(message.value(), message.key()):
                fields = cleaned(json.loads(message.value()))
                validator.validate({"UUID": (message.key() or b"").decode(), **fields})
    validator = Draft202012Validator(schema("distance"))
    for pair in mongo.connect(line.settings)[Collection.DISTANCES].find():
        validator.validate(pair)


def _valid(value: bytes | None, key: bytes | None) -> bool:
    try:
        return bool(read_request(value, key))
    except ValueError:
        return False
