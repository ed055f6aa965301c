"""One authenticated connection to Label Studio's API: sends calls, returns decoded JSON.

Label Studio has two kinds of API token. A legacy token is sent as it is. A personal access token is
a refresh token: it is exchanged for access tokens that live five minutes. The HTTP client and the
token are shared between threads; the token is renewed once after a 401.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from backend.decoding import convert
from backend.errors import LabelStudioAuthError, LabelStudioError
from backend.label_studio.web import certificate_advice, open_client

_TIMEOUT = httpx.Timeout(30.0, connect=3.0)
_UPLOAD_TIMEOUT = httpx.Timeout(300.0, connect=3.0)
_T = TypeVar("_T")
_LONGEST_RETRY_S = 300
_USABLE_S = 240.0  # of the 300 s an access token lives


class ApiToken:
    """Makes the Authorization header for one token.

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
        """Returns the header's value; `renew` gets a new access token after a refusal.

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


class Connection:
    """Sends calls.

    Attributes:
        url: where Label Studio is, without a slash at its end.
        authorization: the token, and what it was exchanged for.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        certificates: Path | None = None,
    ) -> None:
        """Opens no connection before the first call; `transport` replaces the network in tests."""
        self.url = url.rstrip("/")
        self._http = open_client(
            base_url=self.url, timeout=_TIMEOUT, transport=transport, certificates=certificates
        )
        self.authorization = ApiToken(token, self._http)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: object = None,
        content: bytes | None = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        with_token: bool = True,
        may_miss: bool = False,
    ) -> object:
        """Sends one call; after a 401 sends it again with a renewed token.

        Args:
            method, path: of the call.
            params: the query.
            json: body to encode; or else `content`, which is encoded already.
            files: name and content by field of a form, to upload instead of a body.
            with_token: False for the few calls that need none.
            may_miss: whether 404 returns None instead of an error.

        Returns:
            The decoded answer; None for 404 if `may_miss`, or for an empty answer to another method
            than GET.

        Raises:
            LabelStudioAuthError: the token was refused.
            LabelStudioError: refused, not reached, not JSON, or an empty answer to a GET; with the
                time to wait if the answer states it.
        """
        if json is not None:
            content = msgspec.json.encode(json)
        for renew in (False, True):
            headers = {} if content is None else {"Content-Type": "application/json"}
            if with_token:
                headers["Authorization"] = self.authorization.header(renew=renew)
            try:
                answer = self._http.request(
                    method,
                    path,
                    params=params,
                    content=content,
                    files=files,
                    headers=headers,
                    timeout=_TIMEOUT if files is None else _UPLOAD_TIMEOUT,
                )
            except httpx.HTTPError as error:
                raise unreachable_error(self.url, error) from error
            if answer.status_code != 401 or not self.authorization.is_personal:
                break
        if may_miss and answer.status_code == 404:
            return None
        return self._read(method, path, answer)

    def _read(self, method: str, path: str, answer: httpx.Response) -> object:
        if answer.status_code == 401:
            raise LabelStudioAuthError(
                "Label Studio refused the token; set LABEL_STUDIO_API_KEY to a personal access "
                "token (Account & Settings), or allow legacy tokens for the organization"
            )
        if not answer.is_success:
            raise LabelStudioError(
                f"{method} {path}: Label Studio answered {answer.status_code}: {_detail(answer)}",
                retry_after_s=_retry_after_s(answer),
            )
        try:
            value = msgspec.json.decode(answer.content) if answer.content else None
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise LabelStudioError(f"{method} {path}: expected JSON from Label Studio") from error
        if value is None and method == "GET":
            raise LabelStudioError(
                f"{method} {path}: expected JSON from Label Studio, got an empty answer "
                f"({answer.status_code}); a proxy before it may have answered"
            )
        return value


def unreachable_error(url: str, error: httpx.HTTPError) -> LabelStudioError:
    """Returns the error that says why Label Studio at `url` cannot be reached."""
    why = certificate_advice(error) or f"{type(error).__name__}: {error}"
    return LabelStudioError(f"Label Studio at {url} cannot be reached ({why})")


def convert_answer(value: object, kind: type[_T]) -> _T:
    """Converts decoded JSON of Label Studio to the type that the caller needs.

    Raises:
        LabelStudioError: an answer of another form.
    """
    try:
        return convert(value, kind)
    except msgspec.ValidationError as error:
        raise LabelStudioError(f"unexpected answer from Label Studio: {error}") from error


def _detail(answer: httpx.Response) -> str:
    """Returns the message of an error answer."""
    try:
        value = answer.json()
    except ValueError:
        return answer.reason_phrase or "no detail"
    if isinstance(value, dict):
        value = value.get("validation_errors") or value.get("detail") or _by_field(value)
    return str(value)[:500]


def _by_field(errors: Mapping[str, object]) -> str:
    """Returns what is wrong with each field: {"title": ["Too long."]} is "title: Too long."."""
    return " ".join(
        f"{name}: {' '.join(map(str, text)) if isinstance(text, list) else text}"
        for name, text in errors.items()
    )


def _retry_after_s(answer: httpx.Response) -> int | None:
    """Returns the seconds that a busy Label Studio, or a proxy before it, asks to wait."""
    if answer.status_code not in (429, 503):
        return None
    seconds = answer.headers.get("Retry-After", "")
    return min(int(seconds), _LONGEST_RETRY_S) if seconds.isascii() and seconds.isdigit() else 1
