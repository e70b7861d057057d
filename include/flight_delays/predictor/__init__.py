"""The streaming predictor's life: what should run (`state`), how that is brought about (`control`, by way of `engine`),
where one query goes on after another (`handover`), how illness is seen (`watch`), what happened (`events`) and how it
does now (`live`).
"""

from flight_delays.names import Action
from flight_delays.predictor.control import Outcome, Result, act, reconcile
from flight_delays.predictor.engine import check, ping
from flight_delays.predictor.live import Condition, Status, rows, status
from flight_delays.predictor.state import (
    Deployment,
    OvertakenError,
    PredictorError,
    State,
    Wanted,
    read_state,
)

__all__ = [
    "Action",
    "Condition",
    "Deployment",
    "Outcome",
    "OvertakenError",
    "PredictorError",
    "Result",
    "State",
    "Status",
    "Wanted",
    "act",
    "check",
    "ping",
    "read_state",
    "reconcile",
    "rows",
    "status",
]
