"""Proof that a form comes from one of our own pages (CSRF), valid at every server.

Browsers repeat Basic credentials with any form that another site makes them send here. So a form
also needs a keyed hash of the page it stands on. The key is one row of the database, so that a
form of one server may be sent to another, or after a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from sqlalchemy import Connection, select

from backend.storage.store import Store
from backend.storage.tables import page_key

_KEY_BYTES = 32
_TIMEOUT_S = 10.0


class PageToken:
    """Makes and checks tokens; the key is read when the first page is shown.

    Args:
        store: holds the key.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key: bytes | None = None

    def make(self, project_id: int, version: str | None) -> str:
        """Returns the token of a page that shows a project served by a version.

        Raises:
            BackendError: the database gives no key.
        """
        words = f"{project_id}|{version or ''}".encode()
        if self._key is None:
            self._key = shared_key(self._store)
        return hmac.new(self._key, words, hashlib.sha256).hexdigest()

    def fits(self, given: str, project_id: int, version: str | None) -> bool:
        """Whether `given` is the token of a page with this content; compares in constant time."""
        expected = self.make(project_id, version)
        return hmac.compare_digest(given.encode(), expected.encode())


def shared_key(store: Store) -> bytes:
    """Returns the key of all servers of a database; the first server makes it.

    Raises:
        BackendError: the database cannot be read or written.
    """
    find = select(page_key.c.key).where(page_key.c.id == 1)
    with store.read() as connection:
        key = connection.execute(find).scalar()
    if key is not None:
        return bytes(key)
    new = store.insert(page_key).values(id=1, key=secrets.token_bytes(_KEY_BYTES))

    def change(connection: Connection) -> bytes:
        connection.execute(new.on_conflict_do_nothing(index_elements=["id"]))
        return bytes(connection.execute(find).scalar_one())

    return store.write(change, timeout_s=_TIMEOUT_S)
