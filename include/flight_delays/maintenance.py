"""Retention: removes what is older than its setting; the DAG `maintenance` says from where.

Nothing in use is removed: not the models and checkpoints that the pointer or the predictor's state name, no file that
was written lately. Each task may be repeated, and cut off at any time: what is left goes with the next run.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.contract import Collection

if TYPE_CHECKING:
    from pymongo.database import Database

log = logging.getLogger(__name__)

TIME_OF: Final = {
    Collection.RESPONSES: "PredictedAt",
    Collection.REPLAYS: "PredictedAt",
    Collection.SCOREBOARD: "UpdatedAt",
    Collection.REJECTED: "RejectedAt",
    Collection.EVENTS: "At",
}
"""The field that says how old a document is."""

_BATCH: Final = 100
_PAUSE_SECONDS: Final = 0.05
"""Between batches, each of which holds the embedded server's collection for some 50 ms."""


def expire(db: Database[dict[str, Any]], collection: Collection, days: float, *, dry_run: bool = False) -> int:
    """Deletes a collection's documents that are older than `days`; returns how many they are.

    Goes through the collection in natural order, the order of insertion, and so of time, and ends with the first batch
    that holds young documents: a search by date would scan all, and meanwhile the embedded server answers nobody. An
    old document behind a batch of young ones goes when they do.
    """
    limit = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    field, expired = TIME_OF[collection], 0
    documents = db[collection].find({}, {field: 1}, batch_size=_BATCH)
    while True:
        batch = list(islice(documents, _BATCH))
        old = [document["_id"] for document in batch if document.get(field, limit) < limit]
        if old and not dry_run:
            db[collection].delete_many({"_id": {"$in": old}})
            time.sleep(_PAUSE_SECONDS)
        expired += len(old)
        if not old or len(old) < len(batch):
            return expired


def prune_checkpoints(
    db: Database[dict[str, Any]], checkpoints: Path, days: float, *, dry_run: bool = False
) -> list[str]:
    """Removes checkpoints not written for `days` that no deployment in the predictor's state has; returns their names.

    The folders are listed before the state is read, so that one that begins meanwhile is not among them. The days are
    for a query that was replaced and is not stopped yet: it writes at least once a batch.
    """
    import shutil

    from flight_delays.predictor.state import read_state

    folders = [path for path in checkpoints.iterdir() if path.is_dir()] if checkpoints.is_dir() else []
    state = read_state(db)
    used = {deployment.checkpoint for deployment in state.deployments}
    limit = time.time() - days * 86_400
    old = sorted(path for path in folders if path.name not in used and _last_written(path) < limit)
    for path in [] if dry_run else old:
        shutil.rmtree(path)
    return [path.name for path in old]


def prune_files(folder: Path, days: float, *, dry_run: bool = False) -> tuple[int, int]:
    """Removes files below `folder` not written for `days`, and folders empty for that time; returns files and bytes."""
    limit = time.time() - days * 86_400
    files = size = 0
    for place, _, names in os.walk(folder, topdown=False):
        untouched = os.stat(place).st_mtime < limit  # of the folder itself: nobody is about to write into it
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):  # its writer took it away
                status = path.lstat()
                if status.st_mtime < limit:
                    files, size = files + 1, size + status.st_size
                    if not dry_run:
                        path.unlink()
        if untouched and not dry_run and Path(place) != folder:
            with suppress(OSError):  # not empty
                Path(place).rmdir()
    return files, size


def _last_written(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in [folder, *folder.rglob("*")])
