"""Form and tasks of the DAG maintenance."""

from __future__ import annotations

import logging
import shlex
import sys
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
    return _expire(params, "answer_days", Collection.RESPONSES)


def replays(params: dict[str, Any]) -> str:
    """Replays' answers, by `PredictedAt`, and their scores, by `UpdatedAt`."""
    return _expire(params, "replay_days", Collection.REPLAYS, Collection.SCOREBOARD)


def rejected(params: dict[str, Any]) -> str:
    """Rejected messages, by `RejectedAt`."""
    return _expire(params, "rejected_days", Collection.REJECTED)


def events(params: dict[str, Any]) -> str:
    """The predictor's events."""
    return _expire(params, "event_days", Collection.EVENTS)


def models(params: dict[str, Any]) -> str:
    """Model versions but the newest, the pointer's, and those of the predictor's deployments."""
    with database() as db:
        deployed = {deployment.version for deployment in read_state(db).deployments}
    removed = registry.prune(get_settings().models, params["models"], deployed, dry_run=params["dry_run"])
    return _report(params, "model versions", removed)


def checkpoints(params: dict[str, Any]) -> str:
    """Checkpoints of deployments that were replaced."""
    folder, days = get_settings().checkpoints, params["checkpoint_days"]
    with database() as db:
        removed = prune_checkpoints(db, folder, days, dry_run=params["dry_run"])
    return _report(params, "checkpoints", removed)


def files(params: dict[str, Any]) -> str:
    """Downloads, and what runs that were killed left in the staging folders."""
    settings, dry_run = get_settings(), params["dry_run"]
    count, size = prune_files(settings.downloads, params["download_days"], dry_run=dry_run)
    left = [*records.sweep(settings.records, dry_run=dry_run), *registry.sweep(settings.models, dry_run=dry_run)]
    downloads = _report(params, f"downloaded files of {size / 1e6:.1f} MB", count)
    return f"{downloads}; {_report(params, 'staging folders', left)}"


def logs(params: dict[str, Any]) -> str:
    """Airflow's logs of tasks and of DAG processing."""
    from airflow.sdk.configuration import conf

    folder = Path(conf.get("logging", "base_log_folder"))
    count, size = prune_files(folder, params["log_days"], dry_run=params["dry_run"])
    return _report(params, f"log files of {size / 1e6:.1f} MB", count)


def _expire(params: dict[str, Any], name: str, *collections: Collection) -> str:
    days, kept = params[name], get_settings().topic_retention_days
    if days < kept:
        raise DataError(
            f"{name} is {days}, but Kafka keeps messages for {kept} days: what is read again from there would be "
            "answered a second time; raise it, or shorten FLIGHTS_TOPIC_RETENTION_DAYS"
        )
    with database() as db:
        expired = {each: expire(db, each, days, dry_run=params["dry_run"]) for each in collections}
    return "; ".join(_report(params, f"documents of {each}", count) for each, count in expired.items())


def _report(params: dict[str, Any], what: str, removed: int | list[str]) -> str:
    count, names = (removed, []) if isinstance(removed, int) else (len(removed), removed)
    text = f"{count} {what} {'would be' if params['dry_run'] else 'were'} removed"
    text = ": ".join(filter(None, (text, ", ".join(names))))
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
