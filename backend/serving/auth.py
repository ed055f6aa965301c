"""Basic authentication: one user, compared in constant time on bytes."""

from __future__ import annotations

import base64
import binascii
import hmac

from backend.errors import UnauthorizedError
from backend.settings import Settings

_FIELD = "header Authorization"


class Credentials:
    """The one user name and password that may use the backend.

    Clients disagree on how to write characters outside ASCII (Label Studio's own sends Latin-1,
    most others UTF-8), so both spellings are right.
    """

    def __init__(self, user: str, password: str) -> None:
        self._accepted = [_pair(user, password, encoding="utf-8")]
        try:
            self._accepted.append(_pair(user, password, encoding="latin-1"))
        except UnicodeEncodeError:
            # Then no client can send it so; both comparisons still run.
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
            UnauthorizedError: missing, not Basic, not readable, or wrong; all in the same words,
                except that a missing header is named.
        """
        if header is None:
            raise UnauthorizedError("expected Basic credentials", field=_FIELD)
        if not self.accepts(header):
            raise UnauthorizedError("the credentials are not accepted", field=_FIELD)

    def accepts(self, header: str | None) -> bool:
        """Whether the value of an Authorization header, or None, is accepted."""
        if header is None:
            return False
        given = _read(header)
        # `|` not `or`: both comparisons take place whatever the first one says.
        matches = [hmac.compare_digest(given, accepted) for accepted in self._accepted]
        return matches[0] | matches[1]


def _pair(user: str, password: str, *, encoding: str) -> bytes:
    return f"{user}:{password}".encode(encoding)


def _read(header: str) -> bytes:
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(token.strip().encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return b""
