"""Form and tasks of the DAG flight_delay_predictor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from airflow.sdk import Metadata
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from flight_delays.contract import DagId
from flight_delays.errors import CanaryError, PredictorError, RegistryError
from flight_delays.model import registry
from flight_delays.predictor.state import Action
from flight_delays.settings import get_settings
from flight_delays_airflow.form import TEXT, field
from flight_delays_airflow.mongo import database
from flight_delays_airflow.names import KAFKA_CONNECTION, AssetName, asset

PREDICTOR: Final = asset(AssetName.PREDICTOR)
_ACTIONS: Final = "Action; only start, restart and deploy end a stop"
_VERSION: Final = "Version for `deploy`, as `make models` lists it"
PARAMS: Final = {
    "action": field(Action.RECONCILE.value, "string", "Action", _ACTIONS, enum=[action.value for action in Action]),
    "version": field(None, TEXT, "Model version", _VERSION, pattern=f"^{registry.VERSION_PATTERN}$"),
}


def create_topics() -> list[str]:
    """Creates missing topics, and returns their names; see `ensure_topics`."""
    from airflow.providers.apache.kafka.hooks.client import KafkaAdminClientHook

    from flight_delays.infra.topics import ensure_topics

    return ensure_topics(KafkaAdminClientHook(KAFKA_CONNECTION).get_conn, get_settings())


def create_indexes() -> None:
    """Creates missing indexes; see `ensure_indexes`."""
    from flight_delays.infra.mongo import ensure_indexes

    with database() as db:
        ensure_indexes(db)


def act(params: Mapping[str, Any], run_id: str, triggering_asset_events: Mapping[Any, Any]) -> Iterator[Metadata]:
    """Does `params["action"]`, see `control.reconcile`; updates the asset with what was done.

    Raises AirflowSkipException where there is no model yet and nobody in particular asked for one, AirflowFailException
    with the reason, in one sentence, where it failed: a retry is for the watch, which waits longer each time.
    """
    from flight_delays.predictor import control

    settings = get_settings()
    action, reason = Action(params["action"]), _reason(triggering_asset_events)
    run = f"{DagId.PREDICTOR.value}/{run_id}"
    try:
        if action is Action.RECONCILE and registry.read_pointer(settings.models).champion is None:
            raise AirflowSkipException("there is no model yet; training triggers this DAG again")
        with database() as db:
            done = control.reconcile(settings, db, action, params["version"], reason=reason, dag_run=run)
    except (PredictorError, CanaryError, RegistryError) as error:
        raise AirflowFailException(str(error)) from error
    yield Metadata(PREDICTOR, done.summary())


def _reason(events: Mapping[Any, Any]) -> str:
    """The reason that the watch or the health check gave; empty where neither of them triggered the run."""
    payloads = [event.extra.get("payload", event.extra) for found in events.values() for event in found]
    reasons = [payload["reason"] for payload in payloads if isinstance(payload, dict) and "reason" in payload]
    return str(reasons[-1]) if reasons else ""
