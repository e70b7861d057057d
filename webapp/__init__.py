"""The web app: a form that asks for a prediction, and the endpoints behind it.

Run it with `gunicorn --config webapp/gunicorn.conf.py "webapp:create_app()"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix

from flight_delays.infra.printable import finalize
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
    app.jinja_options = {**app.jinja_options, "finalize": finalize}
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider, which is in use
    settings = settings or get_settings()
    if n := settings.web_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n, x_prefix=n)  # type: ignore[method-assign]
    app.extensions[Services.KEY] = Services(settings)
    for part in (predictions, scoreboard, status, health):
        app.register_blueprint(part.blueprint)
    hosts = ("localhost", settings.web_bind.lower(), *settings.web_hosts.lower().split(","))
    app.before_request(lambda: _refuse_other_sites(hosts))
    app.after_request(_add_headers)
    errors.register(app)
    if settings.web_rate_limit:
        rate_limit.register(app, settings.web_rate_limit)
    return app


def _refuse_other_sites(hosts: Sequence[str]) -> None:
    """No other site's page may read an answer, or submit in a visitor's name.

    It can do the first once its own name leads here (DNS rebinding), so names must be known; an address is none.
    Clients that are no browsers send neither `Sec-Fetch-Site` nor `Origin`.
    """
    host = request.headers.get("Host") or request.host  # the latter is empty for a name with a _
    if not _is_known(host, hosts):
        message = f"The web app does not know the host name {host}; its setting FLIGHTS_WEB_HOSTS accepts it"
        raise errors.ApiError(403, "unknown_host", message, "Host")
    if request.method == "POST":
        origin = request.headers.get("Origin", "").partition("://")[2]
        own = origin == host or _is_known(origin, hosts[2:], addresses=False)  # behind a proxy it may differ
        site = request.headers.get("Sec-Fetch-Site", "same-origin" if own or "Origin" not in request.headers else "")
        if site not in ("same-origin", "none"):
            raise errors.ApiError(403, "cross_site", "Requests from pages of other sites are refused")


def _is_known(netloc: str, hosts: Sequence[str], *, addresses: bool = True) -> bool:
    try:
        name = urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return False
    with suppress(ValueError):
        return bool(ip_address(name)) and addresses
    return any(name == host or (host.startswith(".") and name.endswith(host)) for host in hosts if host)


def _add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response
