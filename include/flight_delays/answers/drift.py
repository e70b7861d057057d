"""Drift: whether what is asked lately still looks like what the serving model was trained on."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.contract import Collection, DagId
from flight_delays.data import quality
from flight_delays.data.records import read_flights
from flight_delays.errors import DataError
from flight_delays.model import registry
from flight_delays.model.features import NAMED

if TYPE_CHECKING:
    import pandas as pd
    from pymongo.database import Database

log = logging.getLogger("flight_delays.answers.drift")

NUMBERS: Final = ("DepDelay", "Distance", "DayOfWeek")
_SAMPLE: Final = 50_000
"""Maximum number of flights of either side: the newest of those asked about, a random sample of those trained on."""


class DriftError(DataError):
    """What is asked is further from the training data than the alarm allows."""


def report(
    db: Database[dict[str, Any]],
    models: Path,
    records: Path,
    *,
    since: dt.datetime,
    replay: str | None = None,
    at_least: int = 100,
    alarm: float = 0,
) -> dict[str, Any]:
    """Distances (see `quality.distances`) between the flights asked about and those of the champion's training.

    Asked are the answers to people since then, or those of a `replay`; the newest 50,000 of them. Returns `model`,
    `asked` and `trained` (numbers of flights), `distances`, and `unseen` (the share of flights with a value that
    training had not), also logged as a table; `distances` is empty below `at_least` flights. Raises DriftError above
    `alarm` (0: never), and DataError where no model serves that could be asked, or its training data are gone.
    """
    import pandas as pd

    champion = registry.read_pointer(models).champion
    columns = [*NUMBERS, *NAMED]
    asked = pd.DataFrame(_asked(db, since, replay), columns=columns)
    found: dict[str, Any] = {"model": champion, "asked": len(asked), "distances": {}, "unseen": {}}
    if len(asked) < at_least:
        log.info("%d flights were asked about since %s: too few to judge (at least %d)", len(asked), since, at_least)
        return found
    if champion is None:
        raise DataError(f"There is no model yet: trigger the DAG {DagId.TRAINING}")
    trained = _trained(records, registry.load_metadata(models, champion).training)
    distances = quality.distances(asked, trained, NUMBERS, NAMED)
    unseen = {name: float((~asked[name].isin(trained[name].unique())).mean()) for name in NAMED}
    found |= {"trained": len(trained), "distances": _rounded(distances), "unseen": _rounded(unseen)}
    log.info("%s", as_text(found))
    if alarm and (far := {name: value for name, value in found["distances"].items() if value > alarm}):
        raise DriftError(
            f"What is asked has drifted from the training data of {champion}: {far}, more than {alarm:g} "
            "(FLIGHTS_DRIFT_ALARM). Look at what changed; if it is real, import newer flight records and train on them"
        )
    return found


def _asked(db: Database[dict[str, Any]], since: dt.datetime, replay: str | None) -> Iterator[dict[str, Any]]:
    wanted = dict.fromkeys([*NUMBERS, *NAMED, "PredictedAt"], 1)
    if replay:
        yield from db[Collection.REPLAYS].find({"Replay": replay}, wanted).sort("$natural", -1).limit(_SAMPLE)
        return
    for answer in db[Collection.RESPONSES].find({}, wanted).sort("$natural", -1).limit(_SAMPLE):
        if answer["PredictedAt"] < since:  # all further ones are older: natural order is that of insertion
            return
        yield answer


def _trained(records: Path, period: registry.Period) -> pd.DataFrame:
    columns = [name for name in (*NUMBERS, *NAMED) if name != "Route"]
    rows = read_flights(records, period.first, period.last, columns)
    if rows.empty:
        raise DataError(f"The flight records of the model's training, {period.first} to {period.last}, are gone")
    rows = rows.sample(min(_SAMPLE, len(rows)), random_state=1)
    return rows.assign(Route=rows["Origin"].astype(str) + "-" + rows["Dest"].astype(str))


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def as_text(found: dict[str, Any]) -> str:
    """A report as a table, to be read in a task's log."""
    import pandas as pd

    head = f"{found['asked']:,} flights asked about, against {found['trained']:,} that {found['model']} learned from"
    table = pd.DataFrame({"distance 0..1": found["distances"], "share unseen": found["unseen"]})
    shown = table.sort_values("distance 0..1", ascending=False).to_string(float_format="%.3f", na_rep="")
    return f"{head}\n{shown}"
