"""What this project adds to Airflow: the page Predictor, links of tasks, the refusal of wrong runs, short failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

from flight_delays_airflow import failure, refusal

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

PREFIX = "/predictor"


async def page(scope: Any, receive: Any, send: Any) -> None:
    """The page's ASGI application, imported at its first request: plugins are loaded into every process of Airflow."""
    from flight_delays_airflow.page import app

    await app(scope, receive, send)


class SparkUiLink(BaseOperatorLink):
    """From a task to the streaming query in the Spark UI."""

    name = "Spark UI, streaming query"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow passes them
        """The address of the list of streaming queries."""
        from flight_delays.settings import get_settings

        return get_settings().spark_ui_url + "/StreamingQuery/"


class ScoreboardLink(BaseOperatorLink):
    """From a replay's task to the page that shows its score as it grows."""

    name = "Scoreboard"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow passes them
        """The address of the page, which shows the newest replay first."""
        from flight_delays.settings import get_settings

        return get_settings().web_url + "/flights/delays/scoreboard"


class FlightDelaysPlugin(AirflowPlugin):
    """Registers the page, its place in the navigation, and the listeners."""

    name = "flight_delays"
    listeners = [failure, refusal]  # noqa: RUF012
    fastapi_apps = [{"app": page, "url_prefix": PREFIX, "name": "Predictor"}]  # noqa: RUF012 - Airflow wants a list
    external_views = [  # noqa: RUF012
        {"name": "Predictor", "href": f"{PREFIX}/", "destination": "nav", "url_route": "predictor"}
    ]
