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
PARAMS: Final = {
    "trees": Param(
        20,
        type="integer",
        minimum=1,
        maximum=500,
        title="Number of trees",
        description="Number of trees of the random forest",
        section="Model",
    ),
    "depth": Param(
        10,
        type="integer",
        minimum=1,
        maximum=20,
        title="Maximum tree depth",
        description="Maximum number of levels below the root of a tree",
        section="Model",
    ),
    "seed": Param(
        42,
        type="integer",
        minimum=0,
        maximum=2**31 - 1,
        title="Random seed",
        description="Random seed of the forest",
        section="Model",
    ),
    "holdout_months": Param(
        2,
        type="integer",
        minimum=1,
        maximum=12,
        title="Holdout",
        description="Number of months in the holdout, the last ones",
        section="Promotion",
    ),
    "force": Param(
        False,
        type="boolean",
        title="Forced promotion",
        description="Whether to promote a model that fails the checks",
        section="Promotion",
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
