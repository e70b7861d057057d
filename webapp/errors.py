"""Errors of the API: an HTTP status and JSON `{code, message, field, errors: [{code, message, field, accepted}]}`."""

from __future__ import annotations

import logging

from flask import Flask, Response, jsonify, request
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException

from flight_delays.errors import sentence

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2


class ApiError(Exception):
    """An answer that is no success: a stable `code` for programs, a sentence for people."""

    retry_after: int | None = None
    """Seconds after which trying again makes sense."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, accepted: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field, self.accepted = status, code, message, field, accepted
        self.errors: list[ApiError] = []


class InvalidError(ApiError):
    """400 with every field that is wrong; `code`, `message` and `field` are those of the first."""

    def __init__(self, errors: list[ApiError]) -> None:
        first = errors[0]
        more = f" ({len(errors) - 1} more in errors)" if len(errors) > 1 else ""
        super().__init__(400, first.code, first.message + more, first.field)
        self.errors = errors


class UnavailableError(ApiError):
    """503: a service that is needed does not answer; the client may try again soon."""

    retry_after = RETRY_AFTER_SECONDS

    def __init__(self, code: str, message: str, cause: object) -> None:
        nothing = "Nothing was accepted, please try" if request.method == "POST" else "Please try"
        super().__init__(503, code, f"{message}. {nothing} again in a moment")
        log.warning("%s %s: %s (%s)", request.method, request.path, message, sentence(cause))


def register(app: Flask) -> None:
    """Makes the app answer every failure as JSON, and none with a stack trace."""
    app.register_error_handler(ApiError, answer)
    app.register_error_handler(PyMongoError, _mongo_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _internal_error)


def answer(error: ApiError) -> Response:
    """The error as the client gets it."""
    each = [{"code": e.code, "message": e.message, "field": e.field, "accepted": e.accepted} for e in error.errors]
    body = {"code": error.code, "message": error.message, "field": error.field, "errors": each}
    if error.status == 503 and (uuid := (request.view_args or {}).get("uuid")):
        body |= {"status": "WAIT", "id": uuid}  # the original's page reads this alone, and asks again
    response = jsonify(body)
    response.status_code = error.status
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _mongo_error(error: PyMongoError) -> Response:
    return answer(UnavailableError("mongodb_unavailable", "MongoDB does not answer", error))


def _http_error(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:  # a redirect
        return error
    code = error.name.lower().replace(" ", "_")
    response = answer(ApiError(error.code, code, error.description or error.name))
    if allowed := getattr(error, "valid_methods", None):
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _internal_error(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return answer(ApiError(500, "internal_error", "Something went wrong here; the web app's log says what"))
