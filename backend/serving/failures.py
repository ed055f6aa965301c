"""The only place where an error becomes an answer: always JSON, with the field and an id."""

from __future__ import annotations

import logging

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from backend.errors import BackendError, RequestError, UnauthorizedError
from backend.serving.logs import request_id

_log = logging.getLogger(__name__)

# What Flask itself refuses: class name, field and sentence for each status.
_REFUSALS = {
    404: ("NotFoundError", "path", "there is nothing at this address"),
    405: ("MethodNotAllowedError", "method", "this address does not take this method"),
    413: ("RequestTooLargeError", "body", "the body is larger than this backend accepts"),
}


class Failure(msgspec.Struct):
    """Body of every answer that is not a success.

    Attributes:
        error: class name of the error, to act on.
        detail: for people: what was expected and what came.
        field: the part of the request that is wrong, or None when the request is right.
        request_id: the same as in the log.
    """

    error: str
    detail: str
    field: str | None
    request_id: str | None


def answer_failures(app: Flask) -> None:
    """Makes `app` answer every error as a `Failure`."""
    app.register_error_handler(BackendError, _answer_ours)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_unexpected)


def _answer_ours(error: BackendError) -> Response:
    status = error.http_status
    field = error.field
    if field is None and isinstance(error, RequestError):
        field = "body"
    if status >= 500:
        _log.warning("%s", error, extra={"event": "unavailable", "error": type(error).__name__})
    answer = _failure(status, type(error).__name__, str(error), field)
    if error.retry_after_s is not None:
        answer.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, UnauthorizedError):
        answer.headers["WWW-Authenticate"] = 'Basic realm="calico", charset="UTF-8"'
    return answer


def _answer_http(error: HTTPException) -> Response:
    status = error.code or 500
    name, field, detail = _REFUSALS.get(
        status, ("RequestError", "request", error.description or error.name)
    )
    answer = _failure(status, name, f"{field}: {detail}", field)
    for header, value in error.get_headers(request.environ):
        if header in ("Allow", "Retry-After"):
            answer.headers[header] = value
    return answer


def _answer_unexpected(error: Exception) -> Response:
    _log.exception("unexpected error", extra={"event": "unexpected", "path": request.path})
    return _failure(500, "InternalError", f"{type(error).__name__}; the log has the details", None)


def _failure(status: int, name: str, detail: str, field: str | None) -> Response:
    body = encode_failure(name, detail, field, request_id.get())
    return Response(body, status=status, mimetype="application/json")


def encode_failure(name: str, detail: str, field: str | None, number: str | None) -> bytes:
    """Writes the body of an answer that is not a success; see `Failure`."""
    return msgspec.json.encode(Failure(name, detail, field, number))
