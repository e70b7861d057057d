"""Distances between airports in statute miles: the known pairs, their collection in MongoDB, and the look-up."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from flight_delays.contract import Collection, Pair
from flight_delays.data import airports
from flight_delays.data.sources.text import open_text
from flight_delays.errors import DataError, problems

if TYPE_CHECKING:
    from pymongo.collection import Collection as MongoCollection
    from pymongo.database import Database

PAIRS_FILE: Final = airports.REFERENCE / "origin_dest_distances.jsonl"
_MAX_BYTES: Final = 64 << 20
_SHOWN_ERRORS: Final = 10


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a JSON Lines file. DataError names each malformed or contradictory line (the first ten)."""
    if not path.is_file():
        raise DataError(f"{path} is not a file: expected JSON Lines, e.g. {PAIRS_FILE.name}")
    pairs: dict[tuple[str, str], tuple[int, Pair]] = {}
    errors = []
    with open_text(path, _MAX_BYTES) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                pair = Pair.model_validate_json(line.removeprefix(codecs.BOM_UTF8))
            except ValidationError as error:
                errors.append(f"line {number}: {problems(error)}")
                continue
            first, known = pairs.setdefault((pair.Origin, pair.Dest), (number, pair))
            if known != pair:
                errors.append(f"line {number}: {pair.Origin}-{pair.Dest} has another distance than in line {first}")
    if errors or not pairs:
        shown = errors[:_SHOWN_ERRORS] + [f"and {len(errors) - _SHOWN_ERRORS} more"] * (len(errors) > _SHOWN_ERRORS)
        raise DataError(
            f"{path}: {'; '.join(shown) or 'no pair in it'}. Nothing was imported; expected lines, e.g. "
            '{"Origin":"ATL","Dest":"SFO","Distance":2139.0}'
        )
    return [pair for _, pair in pairs.values()]


def fetch_pairs(path_or_url: str | None, downloads: Path) -> Path:
    """The pairs file at that path or URL, downloaded into `downloads`; the project's own where none is given."""
    from flight_delays.data.sources.download import download

    return download(path_or_url, downloads).path if path_or_url else PAIRS_FILE


def with_flown_pairs(pairs: Iterable[Pair], records_dir: Path) -> list[Pair]:
    """`pairs`, and those that only the published flight records have, with the distance of the records."""
    from flight_delays.data.records import read_manifest

    manifest = read_manifest(records_dir)
    flown = manifest.pairs if manifest else ()
    return list({(pair.Origin, pair.Dest): pair for pair in (*flown, *pairs)}.values())


def import_distances(collection: MongoCollection[dict[str, Any]], pairs: Iterable[Pair]) -> dict[str, int]:
    """Writes the pairs, one document a pair, under a unique index; run again it changes nothing.

    Returns the counts: `pairs` given, `inserted`, `changed`, and `total` in the collection. A connection that breaks in
    between leaves whole documents only, and the next run completes them.
    """
    from pymongo import UpdateOne
    from pymongo.errors import DuplicateKeyError

    try:
        collection.create_index([("Origin", 1), ("Dest", 1)], unique=True)
    except DuplicateKeyError as error:
        raise DataError(
            f"{collection.full_name} holds a pair of airports twice, so that its unique index cannot be made: "
            f"delete one of them or drop the collection. {error}"
        ) from error
    writes = [
        UpdateOne({"Origin": pair.Origin, "Dest": pair.Dest}, {"$set": {"Distance": pair.Distance}}, upsert=True)
        for pair in pairs
    ]
    done = collection.bulk_write(writes, ordered=False)
    counts = {"pairs": len(writes), "inserted": done.upserted_count, "changed": done.modified_count}
    return counts | {"total": collection.count_documents({})}


def find_distance(db: Database[dict[str, Any]], origin: str, dest: str) -> float | None:
    """Statute miles from `origin` to `dest`: of the pair, else of the way back, else the great circle (whole miles).

    None where the pair is unknown and one of the airports has no coordinates.
    """
    collection = db[Collection.DISTANCES]
    for pair in ({"Origin": origin, "Dest": dest}, {"Origin": dest, "Dest": origin}):
        if found := collection.find_one(pair, {"_id": 0, "Distance": 1}):
            return float(found["Distance"])
    known = airports.reference()
    if origin not in known or dest not in known:
        return None
    return max(1.0, float(round(airports.great_circle_miles(known[origin], known[dest]))))
