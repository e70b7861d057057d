"""What the DAG flight_delay_predictor asks of the predictor, from its parameters or from what triggered it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flight_delays.errors import CanaryError, plain


@plain()
def act(params: Mapping[str, Any], run: str, events: Mapping[Any, Any]) -> dict[str, Any]:
    """Does `params["action"]`; returns what was done.

    `run` is "dag_id/run_id"; `events` are those of the assets that triggered it. Raises AirflowSkipException where
    there is no model yet and nobody in particular asked for one, AirflowFailException with the reason, in one sentence,
    where it failed: trying again is for the watch, which waits longer each time.
    """
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    # Airflow imports what lies in plugins/ into every one of its processes: so only what is needed, when it is.
    from flight_delays import predictor, registry
    from flight_delays.settings import get_settings

    settings = get_settings()
    action = predictor.Action(params["action"])
    try:
        if action is predictor.Action.RECONCILE and registry.read_pointer(settings.models).champion is None:
            raise AirflowSkipException("there is no model yet; training triggers this again")
        done = predictor.act(settings, action, params["version"], reason=_reason(events), dag_run=run)
    except (predictor.PredictorError, CanaryError, registry.RegistryError) as error:
        raise AirflowFailException(str(error)) from error
    return done.summary()


def _reason(events: Mapping[Any, Any]) -> str:
    """What the watch saw, in its words; empty where it was not the watch that triggered the run."""
    payloads = [event.extra.get("payload") for found in events.values() for event in found]
    reasons = [payload["reason"] for payload in payloads if isinstance(payload, dict) and "reason" in payload]
    return str(reasons[-1]) if reasons else ""
