"""What one process of the web app holds: a MongoDB client, a Kafka producer, what it knows of flights and models."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from flask import current_app
from pymongo.database import Database
from pymongo.errors import PyMongoError

from flight_delays.contract import Collection
from flight_delays.data import airports
from flight_delays.data.distances import find_distance
from flight_delays.data.records import read_manifest
from flight_delays.errors import DataError, RegistryError, sentence
from flight_delays.infra import mongo
from flight_delays.model import registry
from flight_delays.model.features import NAMED
from flight_delays.predictor.workload import CANARY
from flight_delays.settings import Settings
from webapp.polling import AnswerPoller
from webapp.producer import RequestProducer

log = logging.getLogger(__name__)

MONGO_SECONDS: Final = 1.5
"""Timeout for MongoDB in seconds, retries included: with Kafka's share an answer comes within 3 s."""
REFRESH_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 5.0

ORIGINAL_EXAMPLE: Final = {
    "Carrier": "AA",
    "FlightDate": "2016-12-25",
    "FlightNum": "1519",
    "Origin": "ATL",
    "Dest": "SFO",
    "DepDelay": "5",
}


@dataclass(frozen=True)
class ReferenceData:
    """Carriers and airports that a request may name, with their names ("" where there is none).

    `served` are the airports of the distances and the flight records, for the form's list; `complete` says whether
    MongoDB could be asked.
    """

    carriers: Mapping[str, str]
    airports: Mapping[str, str]
    served: Mapping[str, str]
    complete: bool


class Services:
    """One a process; safe to share between threads."""

    KEY: ClassVar = "flight_delays"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.producer = RequestProducer(settings)
        self.waiting = AnswerPoller(lambda: self.db, limit=settings.web_threads * 3 // 4)
        self._lock = threading.Lock()
        self._db: Database[dict[str, Any]] | None = None
        self._known: ReferenceData | None = None
        self._known_until = 0.0
        self._distance = lru_cache(maxsize=10_000)(lambda pair, _: find_distance(self.db, *pair))

    @property
    def db(self) -> Database[dict[str, Any]]:
        """The contract's database; connected at first use."""
        with self._lock:
            if self._db is None:
                self._db = mongo.connect(self.settings, timeoutMS=int(MONGO_SECONDS * 1000))
            return self._db

    def full_disk(self) -> str | None:
        """What to say where the disk of the state, of the embedded Kafka or MongoDB is almost full; None: room is left.

        What is accepted must be kept, and a broker that finds its disk full ends.
        """
        home, mib = self.settings.home, 1024 * 1024
        for folder in (home, home / "kafka", home / "mongo"):
            with suppress(OSError):  # no such folder: that service is another machine's
                disk = shutil.disk_usage(folder)
                if disk.free < min(self.settings.min_free_disk_mib * mib, disk.total // 20):
                    return f"{disk.free // mib} MiB are free in {folder} (FLIGHTS_MIN_FREE_DISK_MIB)"
        return None

    def distance(self, origin: str, dest: str) -> float | None:
        """Statute miles as `find_distance` knows them; asked again after a minute at most."""
        return self._distance((origin, dest), time.monotonic() // REFRESH_SECONDS)

    def known(self) -> ReferenceData:
        """Carriers and airports; read at first use, then again in the background once a minute."""
        db = self.db
        with self._lock:
            if self._known is None:
                self._refresh(db)
            elif time.monotonic() > self._known_until:
                self._known_until = time.monotonic() + REFRESH_SECONDS  # so that one thread reads, not each request
                threading.Thread(target=self._refresh, args=(db,), daemon=True).start()
            return cast(ReferenceData, self._known)

    def _refresh(self, db: Database[dict[str, Any]]) -> None:
        before = self._known
        pairs: set[str] = set()
        complete = True
        try:
            for field in ("Origin", "Dest"):
                pairs.update(db[Collection.DISTANCES].distinct(field))
        except PyMongoError as error:
            log.warning("distances not read, known airports may be incomplete: %s", sentence(error))
            pairs, complete = set(before.served) if before else set(), before is not None and before.complete
        try:
            manifest = read_manifest(self.settings.records)
        except DataError as error:
            log.warning("flight records' manifest not read: %s", error)
            manifest = None
        names = {code: airport.name for code, airport in airports.reference().items()}
        served = sorted(pairs | set(manifest.airports if manifest else ()))
        self._known = ReferenceData(
            carriers=dict.fromkeys(manifest.carriers if manifest else (), "") | dict(airports.carriers()),
            airports=dict.fromkeys(served, "") | names,
            served={code: names.get(code, "") for code in served},
            complete=complete,
        )
        self._known_until = time.monotonic() + (REFRESH_SECONDS if complete else RETRY_SECONDS)

    def known_example(self) -> dict[str, str]:
        """A flight whose carrier and route the serving model has seen."""
        example = {name: str(CANARY[name]) for name in ("Carrier", "FlightDate", "Origin", "Dest")}
        example |= {"FlightNum": "1284", "DepDelay": "5"}  # flown on that day, so that its conditions are known
        seen = None
        with suppress(RegistryError):
            seen = vocabulary(self.settings.models, registry.read_pointer(self.settings.models).champion or "")
        if seen and seen.get("Route") and seen.get("Carrier"):
            if f"{example['Origin']}-{example['Dest']}" not in seen["Route"]:
                example["Origin"], _, example["Dest"] = min(seen["Route"]).partition("-")
            if example["Carrier"] not in seen["Carrier"]:
                example["Carrier"] = min(seen["Carrier"])
        return example

    def unseen(self, document: Mapping[str, Any]) -> list[str] | None:
        """Which of Carrier, Origin, Dest and Route the answer's model never saw; None where its metadata are gone."""
        seen = vocabulary(self.settings.models, str(document.get("ModelVersion")))
        if seen is None:
            return None
        # The vocabulary also has columns that are made for the model alone, e.g. the carrier on its route.
        return [name for name in NAMED if name in seen and document.get(name) not in seen[name]]


def services() -> Services:
    """Those of the current application."""
    return cast(Services, current_app.extensions[Services.KEY])


def vocabulary(models: Path, version: str) -> Mapping[str, frozenset[str]] | None:
    """The values that the version saw in training, by feature; None where its metadata cannot be read."""
    with suppress(RegistryError):
        return _vocabulary(models, version)
    return None


@lru_cache(maxsize=32)
def _vocabulary(models: Path, version: str) -> Mapping[str, frozenset[str]]:
    return {name: frozenset(values) for name, values in registry.load_metadata(models, version).vocabulary.items()}
