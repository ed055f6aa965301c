"""The database of a backend, which may be running: how commands beside it look inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from backend.errors import SettingsError
from backend.settings import Settings
from backend.storage.store import Store, open_store

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="What is kept. [CALICO_DATA_DIR, .calico]"),
]
ProjectOption = Annotated[
    int | None, typer.Option("--project", help="Only this project; default: every one.")
]


@contextmanager
def kept_store(settings: Settings) -> Iterator[Store]:
    """Opens the store beside whoever serves from it.

    Raises:
        SettingsError: nothing was ever served from this folder.
        StoreError: the database cannot be opened.
    """
    database = settings.data_dir / "calico.sqlite3"
    if settings.database_url is None and not database.is_file():
        raise SettingsError(f"--data-dir: no database {database}; has `calico serve` run here?")
    store = open_store(settings.store_url, is_guest=True, commit_timeout_s=30)
    try:
        yield store
    finally:
        store.close()
