"""Form and tasks of the training DAG: a version that fails its checks skips what follows; a person may approve."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Metadata, Param
from airflow.sdk.exceptions import AirflowSkipException

from flight_delays.model import promotion
from flight_delays_airflow.names import AssetName, asset

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

MODEL: Final = asset(AssetName.MODEL)
_MODEL: Final[dict[str, Any]] = {"section": "Model", "type": "integer"}
_PROMOTION: Final[dict[str, Any]] = {"section": "Promotion"}
PARAMS: Final = {
    "trees": Param(20, **_MODEL, minimum=1, maximum=500, title="Number of trees", description="Trees of the forest"),
    "depth": Param(
        10, **_MODEL, minimum=1, maximum=20, title="Maximum tree depth", description="Levels below the root"
    ),
    "seed": Param(42, **_MODEL, minimum=0, maximum=2**31 - 1, title="Random seed", description="Seed of the training"),
    "holdout_months": Param(
        2,
        **_PROMOTION,
        type="integer",
        minimum=1,
        maximum=12,
        title="Holdout",
        description="Number of months at the end",
    ),
    "force": Param(
        False,
        **_PROMOTION,
        type="boolean",
        title="Force",
        description="Whether to promote a model that fails the checks",
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
