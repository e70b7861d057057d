"""Airflow's nouns, each defined once: DAGs, assets, tags, connections, and what all tasks have in common."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flight_delays.contract import DATABASE, RESPONSE_TOPIC, Collection

if TYPE_CHECKING:
    from airflow.sdk import Asset

OWNER: Final = "flight-delays"


class AssetName(StrEnum):
    """The assets that chain the DAGs: records -> distances, conditions -> model; these and an alarm -> predictor."""

    RECORDS = "flight_records"
    DISTANCES = "origin_dest_distances"
    CONDITIONS = "departure_conditions"
    MODEL = "flight_delay_model"
    ALARM = "flight_delay_predictor_alarm"
    PREDICTOR = "flight_delay_predictor"


ASSETS: Final = {
    AssetName.RECORDS: ("data", "file:///data/flight_records"),
    AssetName.DISTANCES: ("data", f"mongodb://mongo_default:27017/{DATABASE}/{Collection.DISTANCES}"),
    AssetName.CONDITIONS: ("data", f"mongodb://mongo_default:27017/{DATABASE}/{Collection.CONDITIONS}"),
    AssetName.MODEL: ("model", "file:///models"),
    AssetName.ALARM: ("predictor", f"mongodb://mongo_default:27017/{DATABASE}/{Collection.EVENTS}"),
    AssetName.PREDICTOR: ("predictor", f"kafka://kafka_default/{RESPONSE_TOPIC}"),
}
"""Group and URI of each: a path below the state folder, or a connection's id in place of its host.

Host, port and folder may change; a URI may not. While a name is active with one URI, Airflow activates no second one,
and fails the tasks that have it as an outlet.
"""


class Tag(StrEnum):
    """The tags by which the DAGs are found in Airflow's UI."""

    DATA = "data"
    TRAINING = "training"
    PREDICTOR = "predictor"
    HEALTH = "health"
    DEAD_LETTERS = "dead-letters"
    QUALITY = "quality"
    MAINTENANCE = "maintenance"


ALARM_ALIAS: Final = "flight_delay_predictor_unhealthy"
"""The alias by which the health check emits an event of the alarm: a plain outlet would emit one at each success."""

KAFKA_CONNECTION: Final = "kafka_default"
MONGO_CONNECTION: Final = "mongo_default"
SPARK_CONNECTION: Final = "spark_default"
SMTP_CONNECTION: Final = "smtp_default"
AIRFLOW_DATABASE_CONNECTION: Final = "airflow_database"
"""Its extra `secret_address` is the SQLAlchemy address of Airflow's own database, which tasks else do not see."""


def asset(name: AssetName, **more: Any) -> Asset:
    """The asset of that name, for schedules, inlets and outlets; `more` is Asset's own, e.g. its watchers."""
    from airflow.sdk import Asset

    group, uri = ASSETS[name]
    return Asset(name=name.value, group=group, uri=uri, **more)


def dag_args(
    file: str, *tags: Tag, execution_timeout: dt.timedelta = dt.timedelta(minutes=30), retries: int = 3
) -> dict[str, Any]:
    """What every DAG gets: one run at a time, tags, the page beside its file, and its tasks' defaults.

    Those are owner, time limit, and retries after 10, 20, 40 s, but none where the data are to blame: a
    `flight_delays.errors.DataError` says that trying again cannot help.
    """
    from flight_delays_airflow.failure import DataErrorsFail

    task_args = {
        **_notification(),
        "owner": OWNER,
        "retries": retries,
        "retry_delay": dt.timedelta(seconds=10),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": dt.timedelta(minutes=5),
        "retry_policy": DataErrorsFail(),
        "execution_timeout": execution_timeout,
    }
    page = str(Path(file).with_suffix(".md"))
    return {"max_active_runs": 1, "tags": [tag.value for tag in tags], "doc_md": page, "default_args": task_args}


def _notification() -> dict[str, Any]:
    """What tells `notify_email` of a task that failed for good; empty where nobody wants to hear of it."""
    from flight_delays.settings import get_settings

    settings = get_settings()
    if not settings.notify_email:
        return {}
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    notifier = SmtpNotifier(
        to=settings.notify_email,
        from_email=settings.notify_from,
        subject="{{ ti.dag_id }}: {{ ti.task_id }} failed",
        html_content=(
            "<p>The task {{ ti.task_id }} of the DAG {{ ti.dag_id }} failed: {{ exception | string | e }}</p>"
            '<p>Run {{ run_id }}: <a href="{{ ti.log_url }}">log</a>. The DAG\'s Docs say what to do.</p>'
        ),
        smtp_conn_id=SMTP_CONNECTION,
    )
    return {"on_failure_callback": notifier}
