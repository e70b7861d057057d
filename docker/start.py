"""What `make up` does once all services run: unpauses the DAGs, triggers what is missing, waits for a serving model.

Runs in the network of the API server, which it finds on loopback as `make up` does. Harmless when run again.
"""

from __future__ import annotations

import os
import sys

from flight_delays.contract import DagId
from flight_delays.settings import get_settings
from stack.secrets import Secrets
from stack.steps import StepFailedError, explain, step
from stack.up import await_dags, await_predictor, refuse_stopped


def main() -> None:
    """Returns when the champion serves; exit status 1, with what failed and what to do, where it does not."""
    settings = get_settings()
    try:
        with step("DAGs", hint="docker compose logs airflow-dag-processor") as current:
            api = await_dags(settings, Secrets(airflow_password=os.environ["AIRFLOW_PASSWORD"]), current)
        with step("predictor", hint="look at the failed task in Airflow; docker compose up starts again") as current:
            refuse_stopped(settings, api)
            await_predictor(settings, api, current)
            api.pause(DagId.HEALTH, False)
    except StepFailedError as error:
        sys.exit(explain(error))


if __name__ == "__main__":
    main()
