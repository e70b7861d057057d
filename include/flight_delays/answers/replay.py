"""Replays: a past period's flights through the real pipeline again, in the order of time, against what happened.

A flight's message holds what was known at its departure. How late it arrived never leaves this process: it is compared
with the answer in MongoDB, and the score so far is a document that the web app's scoreboard shows.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from flight_delays.answers.scoreboard import Scoreboard
from flight_delays.contract import ENTERED, REQUEST_TOPIC, Collection
from flight_delays.data.conditions import find_conditions
from flight_delays.data.records import read_flights, read_manifest
from flight_delays.errors import DataError, RegistryError
from flight_delays.infra.kafka import send
from flight_delays.model import registry
from flight_delays.predictor.workload import request_message

if TYPE_CHECKING:
    import pandas as pd
    from confluent_kafka import Producer
    from pymongo.database import Database

    from flight_delays.settings import Settings

log = logging.getLogger("flight_delays.answers.replay")

_ASKED: Final = [*ENTERED, "Distance"]
_NAMESPACE: Final = UUID("6f3d0c1e-5f5b-4c0e-9d57-0b6a6d1c9a11")
_KAFKA_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 60.0
_SCORE_SECONDS: Final = 1.0
_LOG_SECONDS: Final = 15.0
_LOOKED_UP: Final = 1000
"""Open flights that are looked for at a time, oldest first: answers come in the order of sending."""


@dataclass(frozen=True)
class Plan:
    """Which flights are sent, and how many a second; `limit` (if any) is the maximum number of flights."""

    first: dt.date
    last: dt.date
    rate: float
    limit: int | None = None


def flights(records: Path, plan: Plan) -> pd.DataFrame:
    """The plan's flights that arrived, in the order of scheduled departure, with `ArrDelay`.

    Raises DataError where the published records have none.
    """
    found = read_flights(records, plan.first, plan.last, [*_ASKED, "ArrDelay"])
    if found.empty:
        manifest = read_manifest(records)
        months = f"{manifest.months[0].month} to {manifest.months[-1].month}" if manifest else "none"
        raise DataError(f"No flights from {plan.first} to {plan.last} among the flight records (months: {months})")
    ordered = found.sort_values(["FlightDate", "CRSDepTime", "Carrier", "FlightNum"], kind="stable")
    return ordered.head(plan.limit or len(ordered)).reset_index(drop=True)


def uuid_of(replay: str, number: int) -> str:
    """The request's UUID: a run that is cut off and goes on sends no flight as a new one."""
    return str(uuid5(_NAMESPACE, f"{replay}/{number}"))


def run(
    replay: str, plan: Plan, settings: Settings, db: Database[dict[str, Any]], producer: Producer
) -> dict[str, Any]:
    """Sends the plan's flights as the run `replay`, scores their answers as they come, and returns the last score.

    A run of that name that was cut off goes on where Kafka last confirmed. The score is written once a second into
    `Collection.SCOREBOARD`. Ends when all flights are answered or rejected, or when none was for a minute. Raises
    BrokerError where Kafka does not confirm; a retry goes on after what it confirmed.
    """
    going = _Replay(replay, plan, settings, db, producer)
    log.info("%s flights from %s to %s, %g a second", f"{going.flights:,}", plan.first, plan.last, plan.rate)
    if going.sent:
        log.info("goes on after flight %s", f"{going.sent:,}")
    begin, first = time.monotonic(), going.sent
    scored = logged = progressed = begin
    state = "cut off"
    try:
        while not going.complete:
            # No more than a second's flights at once, so that the score goes on when sending cannot keep up.
            due = first + int((time.monotonic() - begin) * plan.rate) + 1
            if going.send(min(due, going.sent + max(1, int(plan.rate)))):
                progressed = time.monotonic()
            if time.monotonic() - scored >= _SCORE_SECONDS:
                scored = time.monotonic()
                if going.score():
                    progressed = scored
                document = going.note("running")
                if scored - logged >= _LOG_SECONDS:
                    logged = scored
                    log.info("%s", one_line(document))
                if going.sent == going.flights and scored - progressed > _ANSWER_SECONDS:
                    log.warning("no answer for %.0f s: %s flights stay open", _ANSWER_SECONDS, f"{len(going.open):,}")
                    break
            time.sleep(0.02)
        state = "done"
    finally:
        document = going.note(state)
    log.info("%s", one_line(document))
    return document


class _Replay:
    """How far a replay is: flights before number `sent` are confirmed by Kafka, those in `open` wait for an answer."""

    def __init__(
        self, replay: str, plan: Plan, settings: Settings, db: Database[dict[str, Any]], producer: Producer
    ) -> None:
        rows = flights(settings.records, plan)
        self._replay, self._models, self._db, self._producer = replay, settings.models, db, producer
        self._asked = [{str(name): value for name, value in row.items()} for row in rows[_ASKED].to_dict("records")]
        self._uuids = [uuid_of(replay, number) for number in range(len(rows))]
        self._board = Scoreboard(rows["ArrDelay"], rows["Carrier"], rows["Origin"])
        before = db[Collection.SCOREBOARD].find_one({"_id": replay}) or {}
        self._about = {
            "StartedAt": before.get("StartedAt") or dt.datetime.now(dt.UTC),
            "First": plan.first.isoformat(),
            "Last": plan.last.isoformat(),
            "Rate": plan.rate,
            "Flights": len(rows),
        }
        self.flights = len(rows)
        self.sent = min(int(before.get("Sent", 0)), len(rows))
        self.open = list(range(self.sent))  # after a cut, the answers so far are read again

    @property
    def complete(self) -> bool:
        return self.sent == self.flights and not self.open

    def send(self, until: int) -> bool:
        """Sends the flights up to that number and waits for Kafka; says whether there were any."""
        due = range(self.sent, min(until, self.flights))
        send(self._producer, REQUEST_TOPIC, (self._message(number) for number in due), _KAFKA_SECONDS)
        self.sent = due.stop
        self.open.extend(due)
        return len(due) > 0

    def _message(self, number: int) -> tuple[str, str]:
        """Key and value of a flight's request: as the web app would write it, plus `Replay`."""
        flight = {**self._asked[number], "FlightDate": self._asked[number]["FlightDate"].isoformat()}
        flight |= find_conditions(self._db, flight)
        return self._uuids[number], request_message(self._uuids[number], Replay=self._replay, **flight)

    def score(self) -> bool:
        """Takes what is answered or rejected into the score; says whether there was any."""
        asked = self.open[:_LOOKED_UP]
        wanted = {self._uuids[number]: number for number in asked}
        fields = ["Probability", "ModelVersion"]
        for answer in self._db[Collection.REPLAYS].find({"_id": {"$in": list(wanted)}}, fields):
            self._board.add(wanted.pop(answer["_id"]), answer["Probability"], answer["ModelVersion"])
        if len(wanted) == len(asked):  # nothing came: perhaps they were rejected
            for number in sorted(wanted.values())[:100]:
                if self._db[Collection.REJECTED].find_one({"UUID": self._uuids[number]}, ["_id"]):
                    self._board.rejected += 1
                    del wanted[self._uuids[number]]
        self.open[:_LOOKED_UP] = sorted(wanted.values())
        return len(wanted) < len(asked)

    def note(self, state: str) -> dict[str, Any]:
        """Writes the score so far for the web app, and returns it."""
        score = self._board.summary()
        score["Expected"] = {}
        if versions := score["ModelVersions"]:
            with suppress(RegistryError):  # its folder is gone
                most = max(versions, key=versions.__getitem__)
                score["Expected"] = registry.load_metadata(self._models, most).metrics.model_dump()
        document = {**self._about, "State": state, "Sent": self.sent, "UpdatedAt": dt.datetime.now(dt.UTC), **score}
        self._db[Collection.SCOREBOARD].replace_one({"_id": self._replay}, document, upsert=True)
        return {"_id": self._replay, **document}


def one_line(document: Mapping[str, Any]) -> str:
    """How far a replay is, and how good, in one line for a log."""
    text = f"{document['Sent']:,} of {document['Flights']:,} sent, {document['Answered']:,} answered"
    if score := document["SoFar"]:
        text += f"; accuracy {score['accuracy']:.3f}, log-loss {score['log_loss']:.3f}"
    if window := document["Window"]:
        text += f"; the last {window['rows']:,}: {window['accuracy']:.3f}, {window['log_loss']:.3f}"
    return text
