"""Label Studio's two kinds of API token -> the Authorization header.

A legacy token is sent as it is. A personal access token is a refresh token: it buys access tokens
that live five minutes. One lock guards the access token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx

from backend.errors import LabelStudioAuthError, LabelStudioError
from backend.label_studio.web import certificate_advice

_USABLE_S = 240.0  # of the 300 s an access token lives


class ApiToken:
    """Gives the Authorization header for one token.

    Args:
        token: a legacy token (40 hex digits) or a personal access token (three parts with dots).
        http: client whose base URL is Label Studio.
        clock: seconds that only grow.
    """

    def __init__(
        self, token: str, http: httpx.Client, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._token = token.strip()
        self._http = http
        self._clock = clock
        self._lock = threading.Lock()
        self._access = ""
        self._usable_until = 0.0

    @property
    def is_personal(self) -> bool:
        """Whether it is a personal access token."""
        return self._token.count(".") == 2

    def header(self, *, renew: bool = False) -> str:
        """Returns the header's value; `renew` after a refusal buys a new access token.

        Raises:
            LabelStudioError: Label Studio cannot be reached.
            LabelStudioAuthError: the personal access token is refused.
        """
        if not self.is_personal:
            return f"Token {self._token}"
        with self._lock:
            if renew or self._clock() >= self._usable_until:
                self._access = self._refresh()
                self._usable_until = self._clock() + _USABLE_S
            return f"Bearer {self._access}"

    def _refresh(self) -> str:
        try:
            answer = self._http.post("/api/token/refresh", json={"refresh": self._token})
            if answer.status_code in (301, 308):  # some versions want the slash
                answer = self._http.post("/api/token/refresh/", json={"refresh": self._token})
            access = answer.json().get("access") if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            raise LabelStudioError(
                f"Label Studio at {self._http.base_url} cannot renew the token "
                f"({certificate_advice(error) or error})"
            ) from error
        if not isinstance(access, str):
            raise LabelStudioAuthError(
                "Label Studio refused the personal access token (answer "
                f"{answer.status_code}); create a new one under Account & Settings"
            )
        return access
