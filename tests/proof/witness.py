"""A witness of the whole line: sends flights, reads every answer again and again, and in the end compares them all.

What it is to find out, while others break things: was anything that was accepted lost, did an answer that could be read
ever change, and does each answer say what the model that it names says in batch?
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.traffic import Exchange, records_flights, send
from flight_delays.contract import REQUEST_TOPIC, RESPONSE_TOPIC, SUBMIT_PATH, Collection, parse_timestamp
from flight_delays.infra import mongo
from flight_delays.settings import Settings

_PATIENCE_SECONDS = 240.0
"""An accepted flight may wait so long for its answer: the longest outage here, and the repair after it."""
_NOT_COMPARED = {"_id", "PredictedAt", "RequestedAt", "Deployment", "Timestamp", "FlightDate"}
"""What batch cannot know, and the two that MongoDB keeps as dates, which are compared as such."""


@dataclass
class Verdict:
    """What is wrong, each a list of UUIDs; all empty when all is well. `deployments` counts who answered."""

    accepted: int
    lost: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    deployments: dict[str, int] = field(default_factory=dict)
    reread: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, changed, rejected or answered differently."""
        return not (self.lost or self.changed or self.rejected or self.differing)


class Witness:
    """Traffic from `start` to `finish`; `exchanges` grows as flights end."""

    def __init__(self, settings: Settings, url: str, *, rate: float, limit: int | None = None) -> None:
        self._settings = settings
        self._url = url
        self._rate = rate
        self._limit = limit
        self._stop = threading.Event()
        self._sender = threading.Thread(target=self._send, name="traffic")
        self._watcher = threading.Thread(target=self._watch, name="watcher")
        self._changed: list[str] = []
        self._reread = 0
        self.exchanges: list[Exchange] = []

    def start(self) -> None:
        """Starts to send and to watch."""
        self._sender.start()
        self._watcher.start()

    def finish(self) -> None:
        """Stops sending, and returns once each accepted flight was answered or has waited its time for it."""
        self._stop.set()
        self._sender.join()
        self._watcher.join()

    def answered_since(self, moment: float) -> bool:
        """Whether a flight that left after that `time.monotonic()` was answered."""
        return any(one.answered and one.sent and one.sent > moment for one in self.exchanges[-500:])

    def _send(self) -> None:
        asyncio.run(
            send(
                self._url,
                self._flights(),
                self._rate,
                answer_seconds=_PATIENCE_SECONDS,
                poll_seconds=5,
                concurrency=20_000,
                done=self.exchanges.append,
            )
        )

    def _flights(self) -> Iterator[dict[str, Any]]:
        for number, flight in enumerate(records_flights(self._settings.records, seed=random.randrange(10**6))):
            if self._stop.is_set() or number == self._limit:
                return
            yield flight

    def _watch(self) -> None:
        """Reads answers again, at random, and holds them against what was read first."""
        with httpx.Client(base_url=self._url, timeout=5) as client:
            while self._sender.is_alive():
                known = self.answered()
                for one in random.sample(known, min(20, len(known))):
                    self._look(client, one)
                time.sleep(0.2)

    def _look(self, client: httpx.Client, one: Exchange) -> bool:
        try:
            response = client.get(f"{SUBMIT_PATH}/response/{one.uuid}")
            answer = response.json() if response.is_success else None
        except (httpx.HTTPError, ValueError):
            answer = None  # an outage is no change
        if answer is None:
            return False
        self._reread += 1
        if answer["status"] != one.answer["status"] or answer.get("prediction") != one.answer.get("prediction"):
            self._changed.append(one.uuid)
        return True

    def accepted(self) -> list[Exchange]:
        """The exchanges of accepted flights that have ended."""
        return [one for one in list(self.exchanges) if one.uuid is not None]

    def answered(self) -> list[Exchange]:
        """Those with an answer."""
        return [one for one in self.accepted() if one.answered is not None]

    def verdict(self) -> Verdict:
        """Reads all answers once more, over HTTP and in MongoDB, and computes them in batch. After `finish`."""
        accepted = self.accepted()
        database = mongo.connect(self._settings)
        with httpx.Client(base_url=self._url, timeout=10) as client:
            unread = [one.uuid for one in self.answered() if not self._look(client, one)]
        verdict = Verdict(len(accepted), changed=sorted({*self._changed}), reread=self._reread)
        verdict.lost = [one.uuid for one in accepted if one.answered is None] + unread
        uuids = [one.uuid for one in accepted]
        documents: dict[str, dict[str, Any]] = {}
        for start in range(0, len(uuids), 1000):
            some = {"$in": uuids[start : start + 1000]}
            for document in database[Collection.RESPONSES].find({"_id": some}):
                assert document["_id"] not in documents
                documents[document["_id"]] = document
        rejected = {document.get("UUID") for document in database[Collection.REJECTED].find({}, {"UUID": 1})}
        verdict.rejected = [uuid for uuid in uuids if uuid in rejected]
        verdict.lost += [uuid for uuid in uuids if uuid not in documents and uuid not in verdict.lost]
        in_batch = batch_answers(self._settings, {document["ModelVersion"] for document in documents.values()})
        for uuid, document in documents.items():
            if not _same(document, in_batch[document["ModelVersion"]].get(uuid)):
                verdict.differing.append(uuid)
        verdict.deployments = dict(sorted(Counter(str(d["Deployment"]) for d in documents.values()).items()))
        return verdict


def _same(document: dict[str, Any], answer: dict[str, Any] | None) -> bool:
    if answer is None:
        return False
    compared = (document.keys() | answer.keys()) - _NOT_COMPARED
    return (
        all(document.get(name) == answer.get(name) for name in compared)
        and document["FlightDate"].date().isoformat() == answer["FlightDate"]
        # MongoDB keeps milliseconds
        and abs((document["Timestamp"] - parse_timestamp(answer["Timestamp"])).total_seconds()) < 0.001
    )


_BATCH = """
import json, sys
from pathlib import Path
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
from flight_delays.model import registry
from flight_delays.predictor import query
given = json.load(sys.stdin)
spark = SparkSession.builder.remote(given["connect"]).getOrCreate()
query.configure(spark)
requests = (spark.read.format("kafka").option("kafka.bootstrap.servers", given["kafka"])
    .option("subscribe", given["topic"]).option("startingOffsets", "earliest").load())
for version in given["versions"]:
    model = PipelineModel.load(str(registry.pipeline_path(Path(given["models"]), version)))
    for row in query.respond(requests, model, version, 0).collect():
        if row.topic == given["answers"]:
            print("answer", version, row.value)
spark.stop()
"""


def batch_answers(settings: Settings, versions: set[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """What each model version says in a batch job to all requests on the topic: version -> UUID -> answer."""
    given = {
        "connect": f"{settings.spark_connect_url}/;user_id=proof;token={settings.spark_connect_token}",
        "kafka": settings.kafka_bootstrap,
        "models": str(settings.models),
        "topic": REQUEST_TOPIC,
        "answers": RESPONSE_TOPIC,
        "versions": sorted(versions),
    }
    done = subprocess.run(
        [sys.executable, "-c", _BATCH], input=json.dumps(given), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, dict[str, Any]]] = {version: {} for version in versions}
    for line in done.stdout.splitlines():
        word, version, value = line.split(" ", 2)
        if word == "answer":
            answer = json.loads(value)
            found[version][answer["UUID"]] = answer
    return found
