"""What happens to every request before its route: an id, credentials, and a limit of its kind."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import threading
import time

from flask import Blueprint, Flask, Response, g, request

from backend.errors import BusyError, RequestError, UnauthorizedError
from backend.serving.logs import new_request_id, request_id
from backend.serving.metrics import Metrics
from backend.settings import Settings

_log = logging.getLogger(__name__)
_CREDENTIALS_FIELD = "header Authorization"
_OPEN_ENDPOINTS = ("calico.health", "calico.front_door")
_RETRY_S = 2


def watch_requests(app: Flask, metrics: Metrics, credentials: Credentials | None) -> None:
    """Gives every request an id, checks its credentials and encoding, logs and counts its answer.

    Args:
        app: whose requests are watched.
        metrics: counts them.
        credentials: needed everywhere but at / and /health; None lets everybody in.
    """

    @app.before_request
    def _begin() -> None:
        g.began = time.monotonic()
        request_id.set(new_request_id(request.headers.get("X-Request-ID")))
        if credentials is not None and request.endpoint not in _OPEN_ENDPOINTS:
            credentials.check(request.headers.get("Authorization"))
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise RequestError(
                f"expected an uncompressed body, got {encoding[:40]!r}",
                field="header Content-Encoding",
            )

    @app.teardown_request
    def _forget(_error: BaseException | None) -> None:
        request_id.set(None)

    @app.after_request
    def _end(response: Response) -> Response:
        seconds = time.monotonic() - g.began
        endpoint = (request.endpoint or "unknown").removeprefix("calico.")
        metrics.requests.labels(endpoint, response.status_code).inc()
        metrics.request_seconds.labels(endpoint).observe(seconds)
        response.headers["X-Request-ID"] = request_id.get() or ""
        level = logging.DEBUG if endpoint in ("health", "front_door", "metrics") else logging.INFO
        _log.log(
            level,
            "%s %s",
            request.method,
            endpoint,
            extra={"event": "request", "status": response.status_code, "ms": round(seconds * 1000)},
        )
        return response


class Credentials:
    """The user name and password of basic authentication, compared in constant time on bytes.

    Clients disagree on how to encode characters outside ASCII (Label Studio sends Latin-1, most
    others UTF-8), so both encodings are accepted.
    """

    def __init__(self, user: str, password: str) -> None:
        self._accepted = [_pair(user, password, encoding="utf-8")]
        try:
            self._accepted.append(_pair(user, password, encoding="latin-1"))
        except UnicodeEncodeError:
            # No client can send these characters as Latin-1; both comparisons still run.
            self._accepted.append(self._accepted[0])

    @classmethod
    def of(cls, settings: Settings) -> Credentials | None:
        """Returns the configured credentials, or None when everybody may use the backend."""
        if settings.basic_auth_user is None or settings.basic_auth_password is None:
            return None
        return cls(settings.basic_auth_user, settings.basic_auth_password.get_secret_value())

    def check(self, header: str | None) -> None:
        """Accepts the value of an Authorization header.

        Raises:
            UnauthorizedError: the header is missing, not Basic, not readable, or wrong. The
                message tells a missing header alone from the others.
        """
        if header is None:
            raise UnauthorizedError("expected Basic credentials", field=_CREDENTIALS_FIELD)
        if not self.accepts(header):
            raise UnauthorizedError("the credentials are not accepted", field=_CREDENTIALS_FIELD)

    def accepts(self, header: str | None) -> bool:
        """Whether the value of an Authorization header, or None, is accepted."""
        if header is None:
            return False
        given = _decode(header)
        # `|` not `or`: both comparisons run whatever the first one gives.
        matches = [hmac.compare_digest(given, accepted) for accepted in self._accepted]
        return matches[0] | matches[1]


def _pair(user: str, password: str, *, encoding: str) -> bytes:
    return f"{user}:{password}".encode(encoding)


def _decode(header: str) -> bytes:
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(token.strip().encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return b""


class ConcurrencyLimit:
    """Limits how many requests of one kind are served at once, so that threads stay free.

    A request beyond the limit is refused at once: waiting would take a thread.

    Args:
        limit: how many at once.
        subject: what the requests ask for, for messages.
    """

    def __init__(self, limit: int, subject: str) -> None:
        self._free = threading.BoundedSemaphore(limit)
        self._limit, self._subject = limit, subject

    def guard(self, routes: Blueprint) -> None:
        """Refuses requests of `routes` beyond the limit with 503."""

        @routes.before_request
        def _acquire() -> None:
            if not self._free.acquire(blocking=False):
                raise BusyError(
                    f"expected at most {self._limit} requests for {self._subject} at once; "
                    "try again",
                    retry_after_s=_RETRY_S,
                )
            g.concurrency_limit = self

        @routes.teardown_request
        def _release(_error: BaseException | None) -> None:
            if g.pop("concurrency_limit", None) is self:
                self._free.release()
