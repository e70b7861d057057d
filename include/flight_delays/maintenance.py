"""Retention: what the line keeps for how long. The tasks of the DAG `maintenance` are the functions at the end.

Nothing in use is removed: not the models and checkpoints that the pointer or the predictor's state name, no file that
was written lately. Each task may be repeated, and cut off at any time: what is left goes with the next run.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.contract import Collection
from flight_delays.data import records
from flight_delays.errors import DataError, plain
from flight_delays.model import registry
from flight_delays.settings import get_settings
from flight_delays_airflow.names import AIRFLOW_DATABASE_CONNECTION

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    while True:
        batch = list(db[collection].find({}, {field: 1}).skip(expired if dry_run else 0).limit(_BATCH))
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
    used = {deployment.checkpoint for deployment in (state.serving, state.candidate) if deployment}
    limit = time.time() - days * 86_400
    old = sorted(path for path in folders if path.name not in used and _last_written(path) < limit)
    for path in [] if dry_run else old:
        shutil.rmtree(path)
    return [path.name for path in old]


def prune_files(folder: Path, days: float, *, dry_run: bool = False) -> tuple[int, int]:
    """Removes files below `folder` not written for `days`, and folders empty for so long; returns files and bytes."""
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


# --- the DAG's tasks: `params` are its parameters, `*_days` and `models`, and `dry_run` ------------------------------


def answers(params: dict[str, Any]) -> str:
    """Answers, by `PredictedAt`."""
    return _expired(Collection.RESPONSES, params["answer_days"], dry_run=params["dry_run"])


def replays(params: dict[str, Any]) -> str:
    """Replays' answers, by `PredictedAt`, and their scores, by `UpdatedAt`."""
    kinds = (Collection.REPLAYS, Collection.SCOREBOARD)
    return "; ".join(_expired(kind, params["replay_days"], dry_run=params["dry_run"]) for kind in kinds)


def rejected(params: dict[str, Any]) -> str:
    """Rejected messages, by `RejectedAt`."""
    return _expired(Collection.REJECTED, params["rejected_days"], dry_run=params["dry_run"])


def events(params: dict[str, Any]) -> str:
    """The predictor's events."""
    return _expired(Collection.EVENTS, params["event_days"], dry_run=params["dry_run"])


@plain()
def models(params: dict[str, Any]) -> str:
    """Model versions but the newest, the pointer's, and those of the predictor's deployments."""
    from flight_delays.infra import mongo
    from flight_delays.predictor.state import read_state

    settings = get_settings()
    state = read_state(mongo.connect(settings))
    deployed = {deployment.version for deployment in (state.serving, state.candidate) if deployment}
    removed = registry.prune(settings.models, params["models"], deployed, dry_run=params["dry_run"])
    return _report(removed, "model versions", dry_run=params["dry_run"])


@plain()
def checkpoints(params: dict[str, Any]) -> str:
    """Checkpoints of deployments that were replaced."""
    from flight_delays.infra import mongo

    settings = get_settings()
    db, dry_run = mongo.connect(settings), params["dry_run"]
    removed = prune_checkpoints(db, settings.checkpoints, params["checkpoint_days"], dry_run=dry_run)
    return _report(removed, "checkpoints", dry_run=dry_run)


def files(params: dict[str, Any]) -> str:
    """Downloads, and what runs that were killed left in the staging folders."""
    settings, dry_run = get_settings(), params["dry_run"]
    count, size = prune_files(settings.downloads, params["download_days"], dry_run=dry_run)
    left = [*records.sweep(settings.records, dry_run=dry_run), *registry.sweep(settings.models, dry_run=dry_run)]
    downloads = _report(range(count), f"downloaded files of {size / 1e6:.1f} MB", dry_run=dry_run)
    return f"{downloads}; {_report(left, 'staging folders', dry_run=dry_run)}"


def logs(params: dict[str, Any]) -> str:
    """Airflow's logs of tasks and of DAG processing."""
    from airflow.sdk.configuration import conf

    folder = Path(conf.get("logging", "base_log_folder"))
    count, size = prune_files(folder, params["log_days"], dry_run=params["dry_run"])
    return _report(range(count), f"log files of {size / 1e6:.1f} MB", dry_run=params["dry_run"])


@plain()
def _expired(collection: Collection, days: float, *, dry_run: bool) -> str:
    from flight_delays.infra import mongo

    settings = get_settings()
    if days < settings.topic_retention_days:
        raise DataError(
            f"{collection} is to be kept for {days} days, but Kafka keeps messages for "
            f"{settings.topic_retention_days}: what is read again from there would be answered a second time; keep "
            "them longer, or shorten FLIGHTS_TOPIC_RETENTION_DAYS"
        )
    expired = expire(mongo.connect(settings, socketTimeoutMS=60_000), collection, days, dry_run=dry_run)
    return _report(range(expired), f"documents of {collection}", dry_run=dry_run)


def _report(removed: Iterable[object], what: str, *, dry_run: bool) -> str:
    things = list(removed)
    text = f"{len(things)} {what} {'would be' if dry_run else 'were'} removed"
    if things and isinstance(things[0], str):
        text += f": {', '.join(map(str, things))}"
    log.info("%s", text)
    return text


# --- Airflow's own database: for a BashOperator, as no code of a task may reach it -----------------------------------

# Without the table `dag`: a stack that stood still for long would lose DAGs that it is about to parse again.
_TABLES = (
    "asset_event,callback,deadline,dag_run,dag_version,import_error,job,log,revoked_token,task_instance,"
    "task_instance_history,task_reschedule,trigger,xcom"
)
CLEAN_AIRFLOW: Final = (
    f"airflow db clean --yes --skip-archive --error-on-cleanup-failure --batch-size 500 --tables {_TABLES}"
    " --clean-before-timestamp '{{ dag_run.run_after - macros.timedelta(days=params.airflow_days) }}'"
    " {{ '--dry-run' if params.dry_run else '' }}"
)
AIRFLOW_DATABASE: Final = {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"{{{{ conn.{AIRFLOW_DATABASE_CONNECTION}.extra_dejson.secret_address }}}}"
}
