"""An expected failure is one sentence in its task's log, as the reason of a skip is; Airflow would add a traceback."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from airflow.listeners import hookimpl
from airflow.sdk import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowFailException

from flight_delays.errors import DataError, ExpectedError


class DataErrorsFail(RetryPolicy):
    """No retry where the data or a parameter is wrong; without a reason, which Airflow would log after the error's."""

    def evaluate(self, exception: BaseException, *_: Any, **__: Any) -> RetryDecision:
        """Called in the task's process."""
        return RetryDecision.fail() if isinstance(exception, DataError) else RetryDecision.default()


@hookimpl
def on_task_instance_running() -> None:
    """Called in the task's process, before the task: its loggers share this list of processors."""
    processors = structlog.get_config()["processors"]
    if one_sentence not in processors:
        processors.insert(0, one_sentence)


def one_sentence(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ARG001
    """structlog's processor: in place of the traceback of an expected error, its message as `reason`."""
    error = sys.exc_info()[1] if event.get("exc_info") else None
    if isinstance(error, (ExpectedError, AirflowFailException)):
        del event["exc_info"]
        event["reason"] = str(error)
    return event
