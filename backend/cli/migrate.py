"""`calico migrate`: brings the tables of the database up to date, before servers are updated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from backend.cli.options import command_settings
from backend.errors import StoreError
from backend.storage.database import open_engines, state_of
from backend.storage.folder_lock import served_alone
from backend.storage.schema import SchemaState


def migrate(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", help="Folder of the database and all files. [CALICO_DATA_DIR, .calico]"
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what would be done and change nothing.")
    ] = False,
) -> None:
    """Bring the tables of the database up to date. `calico serve` does the same when it starts.

    With several servers on one PostgreSQL, run it with the new release before you update the
    servers one after another: the servers of the older release go on, and may be started again,
    if the new tables allow it. The last line says so. Make a backup first.

    Example: calico migrate --check

    The last line of the output is JSON: before, now, oldest_release, older_may_serve.
    """
    url = command_settings(data_dir=data_dir).store_url
    before = state_of(url)
    after = before
    if not check:
        with served_alone(url):
            for engine in open_engines(url):
                engine.dispose()
        after = state_of(url)
    typer.echo(_in_words(before, after))
    words = {
        "before": before.present,
        "now": after.present,
        "oldest_release": after.oldest_release,
        "older_may_serve": before.present is not None and _allows(after, before.present),
    }
    typer.echo(msgspec.json.encode(words).decode())
    if check and before.is_newer and not before.is_served:
        raise StoreError(f"the tables have version {before.present}: update CALICO")


def _in_words(before: SchemaState, after: SchemaState) -> str:
    if before.is_newer and not before.is_served:
        return f"a newer release has made the tables (version {before.present})"
    if before.is_newer:
        return f"a newer release has made the tables (version {before.present}); nothing to do"
    if before.is_current:
        return f"the tables are up to date (version {before.present})"
    if before is after and before.present is None:
        return f"there are no tables yet; they would be made (version {before.known})"
    if before is after:
        return f"the tables would be brought from version {before.present} to {before.known}"
    if before.present is None:
        return f"the tables are made (version {after.present})"
    kept = "go on and may be started again" if _allows(after, before.present) else "must be updated"
    return (
        f"the tables are brought from version {before.present} to {after.present}; servers of the "
        f"older release {kept}"
    )


def _allows(state: SchemaState, release: str) -> bool:
    """Whether a release, by its newest step, may serve on the tables."""
    return state.oldest_release is not None and state.oldest_release <= release
