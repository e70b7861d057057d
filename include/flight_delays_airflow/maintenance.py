"""Form and tasks of the DAG maintenance."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from airflow.sdk import Param

from flight_delays.contract import Collection
from flight_delays.data import records
from flight_delays.errors import DataError
from flight_delays.maintenance import expire, prune_checkpoints, prune_files
from flight_delays.model import registry
from flight_delays.predictor.state import read_state
from flight_delays.settings import get_settings
from flight_delays_airflow.form import field, section
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import AIRFLOW_DATABASE_CONNECTION

log = logging.getLogger(__name__)

_SETTINGS: Final = get_settings()


def _days(of: str, default: float, **limits: Any) -> Param:
    """A retention in days."""
    limits = limits or {"exclusiveMinimum": 0}
    return field(default, "number", f"{of[0].upper()}{of[1:]}", f"Retention of {of} in days", **limits)


_VERSIONS: Final = "Number of model versions to keep, the newest ones"
PARAMS: Final = {
    **section("Action", dry_run=field(False, "boolean", "Dry run", "Whether to count only, and remove nothing")),
    **section(
        "Documents",
        answer_days=_days("answers", _SETTINGS.answer_retention_days),
        replay_days=_days("replays' answers", _SETTINGS.replay_retention_days),
        rejected_days=_days("rejected messages", _SETTINGS.rejected_retention_days),
        event_days=_days("the predictor's events", _SETTINGS.event_retention_days),
    ),
    **section(
        "Files",
        models=field(_SETTINGS.models_kept, "integer", "Models", _VERSIONS, minimum=1),
        checkpoint_days=_days("replaced deployments' checkpoints", _SETTINGS.checkpoint_retention_days),
        download_days=_days("unused downloads", _SETTINGS.download_retention_days),
    ),
    **section(
        "Airflow",
        log_days=_days("logs", _SETTINGS.log_retention_days),
        airflow_days=_days("runs", _SETTINGS.airflow_retention_days, minimum=1),
        health_days=_days("successful health checks", _SETTINGS.health_retention_days, minimum=1),
    ),
}


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


def models(params: dict[str, Any]) -> str:
    """Model versions but the newest, the pointer's, and those of the predictor's deployments."""
    settings = get_settings()
    with database() as db:
        state = read_state(db)
    deployed = {deployment.version for deployment in state.deployments}
    removed = registry.prune(settings.models, params["models"], deployed, dry_run=params["dry_run"])
    return _report(removed, "model versions", dry_run=params["dry_run"])


def checkpoints(params: dict[str, Any]) -> str:
    """Checkpoints of deployments that were replaced."""
    settings, dry_run = get_settings(), params["dry_run"]
    with database() as db:
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


def _expired(collection: Collection, days: float, *, dry_run: bool) -> str:
    settings = get_settings()
    if days < settings.topic_retention_days:
        raise DataError(
            f"{collection} is to be kept for {days} days, but Kafka keeps messages for "
            f"{settings.topic_retention_days}: what is read again from there would be answered a second time; keep "
            "them longer, or shorten FLIGHTS_TOPIC_RETENTION_DAYS"
        )
    with database() as db:
        expired = expire(db, collection, days, dry_run=dry_run)
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
_DRY_RUN_OPTION: Final = "{{ '--dry-run' if params.dry_run else '' }}"


def _before(param: str) -> str:
    return f"'{{{{ dag_run.run_after - macros.timedelta(days=params.{param}) }}}}'"


_PYTHON: Final = shlex.quote(sys.executable)  # the PATH of a task need not begin with the virtual environment
CLEAN_AIRFLOW: Final = (
    f"{_PYTHON} -m flight_delays_airflow.health_runs {_before('health_days')} {_DRY_RUN_OPTION} &&"
    f" airflow db clean --yes --skip-archive --error-on-cleanup-failure --batch-size 500 --tables {_TABLES}"
    f" --clean-before-timestamp {_before('airflow_days')} {_DRY_RUN_OPTION}"
)
AIRFLOW_DATABASE: Final = {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"{{{{ conn.{AIRFLOW_DATABASE_CONNECTION}.extra_dejson.secret_address }}}}"
}
