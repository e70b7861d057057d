"""Form and tasks of the training DAG: a version that fails its checks skips what follows; a person may approve."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Metadata
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.model import promotion
from flight_delays_airflow.form import field, section
from flight_delays_airflow.names import AssetName, asset

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

MODEL: Final = asset(AssetName.MODEL)
PARAMS: Final = {
    **section(
        "Model",
        trees=field(20, "integer", "Number of trees", "Trees of the forest", minimum=1, maximum=500),
        depth=field(10, "integer", "Maximum tree depth", "Levels below the root", minimum=1, maximum=20),
        seed=field(42, "integer", "Random seed", "Seed of the training", minimum=0, maximum=2**31 - 1),
    ),
    **section(
        "Promotion",
        holdout_months=field(2, "integer", "Holdout", "Number of months at the end", minimum=1, maximum=12),
        force=field(False, "boolean", "Force", "Whether to promote a model that fails the checks"),
    ),
}


def judge(version: str, params: dict[str, Any], ti: RuntimeTaskInstanceProtocol) -> str:
    """The version, where it may serve; its verdict is the XCom `verdict`. Raises AirflowSkipException where not."""
    verdict = promotion.judge(version, params)
    ti.xcom_push("verdict", verdict)  # a task that skips returns nothing
    if not verdict["passed"]:
        raise AirflowSkipException(f"{version} is not promoted: {'; '.join(verdict['reasons'])}")
    return version


def promote(version: str) -> Iterator[Metadata]:
    """Makes the version the champion; see `promotion.promote`. Updates the asset."""
    yield Metadata(MODEL, promotion.promote(version))


def approval(timeout: dt.timedelta) -> ApprovalOperator:
    """The task `approve`: asks whether what `judge` let pass shall serve; no answer within `timeout` is a no."""
    return ApprovalOperator(
        task_id="approve",
        subject="Shall model {{ ti.xcom_pull('judge') }} serve?",
        body="Verdict: `{{ ti.xcom_pull('judge', key='verdict') | tojson }}`. Its model card lies in its folder.",
        defaults=ApprovalOperator.REJECT,
        response_timeout=timeout,
    )
