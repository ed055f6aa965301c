"""Tells a form of our own page from one that another site makes a browser send (CSRF).

Browsers repeat Basic credentials on any form that is sent here, so a form has to bring something
only the page could tell it: a keyed hash of what it was made for, with a key of this process.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets


class PageToken:
    """Makes and checks the tokens of one process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def make(self, project_id: int, version: str | None) -> str:
        """Returns the token of a page that shows a project served by a version."""
        words = f"{project_id}|{version or ''}".encode()
        return hmac.new(self._key, words, hashlib.sha256).hexdigest()

    def fits(self, given: str, project_id: int, version: str | None) -> bool:
        """Whether a token is of a page that showed this, compared in constant time."""
        expected = self.make(project_id, version)
        return hmac.compare_digest(given.encode(), expected.encode())
