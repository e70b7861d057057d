"""Airflow's nouns, each defined once: DAGs, assets, tags, connections, and what all tasks have in common."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow.sdk import Asset

OWNER: Final = "flight-delays"


class DagId(StrEnum):
    """The DAGs; each lives in the file of `dags/` that bears its name."""

    RECORDS = "flight_records"
    NEWEST_MONTH = "flight_records_newest_month"
    DISTANCES = "origin_dest_distances"
    CONTEXT = "flight_context"
    TRAINING = "agile_data_science_batch_prediction_model_training"
    ROLLBACK = "flight_delay_model_rollback"
    PREDICTOR = "flight_delay_predictor"
    HEALTH = "flight_delay_predictor_health"
    DEAD_LETTERS = "flight_delay_dead_letters"
    REPLAY = "flight_delay_replay"
    DRIFT = "flight_delay_drift"
    MAINTENANCE = "maintenance"


class AssetName(StrEnum):
    """The assets that chain the DAGs: records -> distances, and context -> model; both, and an alarm -> predictor."""

    RECORDS = "flight_records"
    DISTANCES = "origin_dest_distances"
    CONTEXT = "flight_context"
    MODEL = "flight_delay_model"
    ALARM = "flight_delay_predictor_alarm"
    PREDICTOR = "flight_delay_predictor"


class Action(StrEnum):
    """What may be asked of the predictor, by the parameter `action` of its DAG."""

    RECONCILE = "reconcile"
    """Bring about what is recorded: assets, repairs and `make up` ask for this; it does not end a person's stop."""
    START = "start"
    RESTART = "restart"
    """A new query on a new checkpoint beside the old one, which stops once the new one answers."""
    DEPLOY = "deploy"
    """Move the pointer to a version, then as `START`."""
    STOP = "stop"


class Tag(StrEnum):
    """The tags by which the DAGs are found in Airflow's UI."""

    DATA = "data"
    TRAINING = "training"
    PREDICTOR = "predictor"
    HEALTH = "health"
    DEAD_LETTERS = "dead-letters"
    QUALITY = "quality"
    MAINTENANCE = "maintenance"


KAFKA_CONNECTION: Final = "kafka_default"
KAFKA_CANARY_CONNECTION: Final = "kafka_canary"
MONGO_CONNECTION: Final = "mongo_default"
SPARK_CONNECTION: Final = "spark_default"
SMTP_CONNECTION: Final = "smtp_default"
AIRFLOW_DATABASE_CONNECTION: Final = "airflow_database"
"""Its extra `secret_address` is the SQLAlchemy address of Airflow's own database, which tasks else do not see."""


def asset(name: AssetName, **more: Any) -> Asset:
    """The asset of that name, for schedules, inlets and outlets; `more` is Asset's own, such as its watchers."""
    from airflow.sdk import Asset

    return Asset(name=name.value, uri=f"x-flight-delays://{name.value}", **more)


def default_args(
    *, execution_timeout: dt.timedelta = dt.timedelta(minutes=30), retries: int = 3, **more: Any
) -> dict[str, Any]:
    """What every task gets: owner, time limit, and retries after 10, 20, 40 s, but none where the data are to blame.

    A `flight_delays.sources.DataError` says that the data or the parameters are wrong: trying again cannot help.
    """
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

    data_error = RetryRule(
        exception="flight_delays.sources.DataError", action=RetryAction.FAIL, reason="the data or a parameter is wrong"
    )
    return {
        **_notification(),
        "owner": OWNER,
        "retries": retries,
        "retry_delay": dt.timedelta(seconds=10),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": dt.timedelta(minutes=5),
        "retry_policy": ExceptionRetryPolicy(rules=[data_error]),
        "execution_timeout": execution_timeout,
        **more,
    }


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
            '<p>Run {{ run_id }}: <a href="{{ ti.log_url }}">log</a>. What to do then stands in the DAG\'s Docs.</p>'
        ),
        smtp_conn_id=SMTP_CONNECTION,
    )
    return {"on_failure_callback": notifier}
