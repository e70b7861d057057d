"""How many flights one client may submit: `FLIGHTS_WEB_RATE_LIMIT`."""

from __future__ import annotations

import math
import time

from flask import Flask, Response
from flask_limiter import Limiter, RateLimitExceeded
from flask_limiter.util import get_remote_address

from webapp.errors import ApiError, answer

SUBMIT = "predictions.submit"


def register(app: Flask, rate: str) -> None:
    """Limits submissions to `rate`, e.g. "30/minute", for each client, that is each address (`web_proxies`).

    What was submitted is counted in memory: each process of the web app counts alone, so `web_workers` of them let
    through that many times as much at most. Forms and answers are not limited; a page asks for its answer repeatedly.
    """
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://", strategy="moving-window")
    app.view_functions[SUBMIT] = limiter.limit(rate)(app.view_functions[SUBMIT])  # type: ignore[assignment]

    def refuse(_: RateLimitExceeded) -> Response:
        limit = limiter.current_limit
        assert limit is not None  # noqa: S101 - it was just exceeded
        seconds = max(1, math.ceil(limit.reset_at - time.time()))
        later = f"{seconds} s" if seconds <= 120 else f"{math.ceil(seconds / 60)} minutes"
        message = f"Too many flights at once: {limit.limit} are accepted. Please try again in {later}"
        error = ApiError(429, "rate_limited", message)
        error.retry_after = seconds
        return answer(error)

    app.register_error_handler(RateLimitExceeded, refuse)
