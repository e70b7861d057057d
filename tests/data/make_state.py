"""Makes the state that a release leaves behind, for the test that a later one takes over: run it with that release.

From a checkout of the release (0.1.0 is the commit c4d0416), with a virtual environment that has its packages:

    git worktree add /tmp/release-0.1.0 c4d0416 && cd /tmp/release-0.1.0
    PYTHONPATH=.:include:plugins PYTHON tests/data/make_state.py state-0.1.0.tar.xz    # both of the project under test

It starts the services but Airflow in a folder of its own, does what the DAGs do with a small slice of the flights,
answers some, leaves some on the topic, and packs what is needed, without passwords. `expected.json` says what is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pandas as pd
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from flight_delays.contract import REQUEST_TOPIC, Collection
from flight_delays.data import distances, records
from flight_delays.data.sources.archive import Archive
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.infra import mongo
from flight_delays.infra.topics import ensure_topics
from flight_delays.model import promotion, registry
from flight_delays.predictor.state import read_state
from flight_delays.predictor.workload import CANARY
from flight_delays.settings import PROJECT, Settings, get_settings
from stack.secrets import load_secrets
from stack.services import BIN, services, spark_environment
from stack.steps import Step
from stack.supervisor import Supervisor
from stack.up import await_ready
from tests.flights import import_records
from tests.integration.line import reconcile

PLACE = "/flights/delays/predict/classify_realtime"
KEPT = ("mongo", "kafka/data", "kafka/cluster.id", "models", "checkpoints", "data/flight_records")


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"FLIGHTS_HOME": f"{scratch}/var", "FLIGHTS_PORT_OFFSET": "23500"}
        os.environ["FLIGHTS_TOPIC_RETENTION_DAYS"] = "36500"  # the test must find the messages in years to come
        settings = get_settings()
        secrets = load_secrets(settings)
        supervisor = Supervisor(settings)
        wanted = [service for service in services(settings, secrets) if not service.name.startswith("airflow")]
        supervisor.start(wanted)
        try:
            for service in wanted:
                await_ready(settings, supervisor, service, Step(service.name))
            expected = live(settings, supervisor, Path(scratch))
        finally:
            supervisor.stop()
        (settings.home / "expected.json").write_text(json.dumps(expected, indent=1))
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for name in (*KEPT, "expected.json"):
                archive.add(settings.home / name, name, filter=_nobodys)


def live(settings: Settings, supervisor: Supervisor, scratch: Path) -> dict[str, Any]:
    """What the DAGs and some users do; returns what must be found afterwards."""
    flights = scratch / "flights.jsonl"
    import_records(NycFlights13(), records_dir=scratch / "all", months="2013-10..2013-12")
    rows = pd.concat(pd.read_parquet(path).sample(700, random_state=1) for path in records.month_files(scratch / "all"))
    rows["FlightDate"] = rows["FlightDate"].astype(str)
    flights.write_text("".join(json.dumps(row) + "\n" for row in rows.to_dict("records")))
    import_records(Archive(url=str(flights)))
    ensure_topics(AdminClient({"bootstrap.servers": settings.kafka_bootstrap}), settings)
    db = mongo.connect(settings)
    mongo.ensure_indexes(db)
    pairs = distances.read_pairs(distances.PAIRS_FILE)[::20]
    imported = distances.import_distances(db[Collection.DISTANCES], distances.with_flown_pairs(pairs, settings.records))
    prepared = promotion.prepare({"trees": 3, "depth": 3, "seed": 1, "holdout_months": 1}, "state")
    submit = [str(BIN / "spark-submit"), "--master", "local[2]", "--driver-memory", "1g"]
    job = [str(PROJECT / "spark_jobs" / "train_model.py"), *prepared["arguments"]]
    subprocess.run([*submit, *job], env=os.environ | spark_environment(), check=True, stdout=sys.stderr)
    version = promotion.register(prepared["staged"])
    promotion.judge(version, {"force": True})
    promotion.promote(version)
    reconcile(settings)

    web = httpx.Client(base_url=settings.web_url, timeout=40)
    form = {name: value for name, value in CANARY.items() if name != "Distance"}
    answered = [web.post(PLACE, json=form | {"DepDelay": delay}).json()["id"] for delay in (-10, 0, 5, 25, 180)]
    answered.append(str(uuid4()))
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})
    producer.produce(REQUEST_TOPIC, key=answered[-1], value="{")
    producer.flush(10)
    answers = {uuid: web.get(f"{PLACE}/response/{uuid}", params={"wait": 20}).json() for uuid in answered}
    assert [answer["status"] for answer in answers.values()] == ["OK"] * 5 + ["REJECTED"], answers
    time.sleep(settings.sink_commit_delay_seconds + 3)  # the sink commits these
    supervisor.stop_service("spark-connect")
    pending = [web.post(PLACE, json=form | {"DepDelay": delay}).json()["id"] for delay in (1, 2, 3)]
    state = read_state(db)
    return {
        "answers": answers,
        "pending": pending,
        "champion": registry.read_pointer(settings.models).champion,
        "generation": state.generation,
        "distances": imported["total"],
        "canaries": [document["_id"] for document in db[Collection.CANARIES].find({}, {"_id": 1})],
    }


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if Path(member.name).name in {".lock", ".staging", "staging", "rejected"} else member


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
