"""Tasks of the training DAG: a version that fails its promotion checks skips what follows; a person may approve."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.model import promotion

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol


def judge(version: str, params: dict[str, Any], ti: RuntimeTaskInstanceProtocol) -> str:
    """The version, where it may serve; its verdict is the XCom `verdict`. Raises AirflowSkipException where not."""
    verdict = promotion.judge(version, params)
    ti.xcom_push("verdict", verdict)  # a task that skips returns nothing
    if not verdict["passed"]:
        raise AirflowSkipException(f"{version} is not promoted: {'; '.join(verdict['reasons'])}")
    return version


def approval(timeout: dt.timedelta) -> ApprovalOperator:
    """The task `approve`: asks whether what `judge` let pass shall serve; no answer within `timeout` is a no."""
    return ApprovalOperator(
        task_id="approve",
        subject="Shall model {{ ti.xcom_pull('judge') }} serve?",
        body="Verdict: `{{ ti.xcom_pull('judge', key='verdict') | tojson }}`. Its model card lies in its folder.",
        defaults=ApprovalOperator.REJECT,
        response_timeout=timeout,
    )
