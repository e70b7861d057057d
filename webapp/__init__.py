"""The web app: a form that asks for a prediction, and the endpoints behind it.

Run it with `gunicorn --config webapp/gunicorn.conf.py "webapp:create_app()"`.
"""

from __future__ import annotations

from flask import Flask, Response, request

from flight_delays.settings import Settings, get_settings
from webapp import errors, health, predictions, rate_limit, scoreboard, status
from webapp.services import Services

MAX_BODY_BYTES = 16 * 1024

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def create_app(settings: Settings | None = None) -> Flask:
    """The application; it connects to Kafka and MongoDB at the first request, so after gunicorn's fork."""
    app = Flask(__name__)
    app.url_map.merge_slashes = False  # `//` is an unknown path: the redirect fails, status 500, on an odd query
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider, which is in use
    settings = settings or get_settings()
    app.extensions[Services.KEY] = Services(settings)
    app.register_blueprint(predictions.blueprint)
    app.register_blueprint(scoreboard.blueprint)
    app.register_blueprint(status.blueprint)
    app.register_blueprint(health.blueprint)
    app.before_request(_refuse_other_sites)
    app.after_request(_add_headers)
    errors.register(app)
    if settings.web_rate_limit:
        rate_limit.register(app, settings.web_rate_limit)
    return app


def _refuse_other_sites() -> None:
    """No other site's page may submit in a visitor's name; clients that are no browsers do not send the header."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise errors.ApiError(403, "cross_site", "Requests from pages of other sites are refused")


def _add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response
