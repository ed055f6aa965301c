"""`calico train --state-url`: the states of a run where every machine finds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import typer

from backend.cli.train_nodes import is_first, is_first_here
from backend.cli.train_peers import gathered, report_presence
from backend.errors import BackendError, FilesUnavailableError, SettingsError
from backend.setting_fields.values import check_shelf_url
from backend.storage.shelf import open_shelf
from backend.storage.state_shelf import StateShelf

_Value = TypeVar("_Value")


class TrainingStates:
    """The states of one training, as its processes share them; without an address, none.

    Args:
        url: file:///FOLDER, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; reached for with `begin`.
        out: run folder of this machine.

    Raises:
        SettingsError: another address, or a library is missing.
    """

    def __init__(self, url: str | None, out: Path) -> None:
        self._shelf: StateShelf | None = None
        if url is not None:
            try:
                place = check_shelf_url(url)
            except ValueError as error:
                raise SettingsError(f"--state-url: {error}, got {url!r}") from None
            self._shelf = StateShelf(open_shelf(place, setting="--state-url"), out, _tell)

    def begin(self) -> None:
        """Brings the run folders of all machines to the newest state; called on every process.

        The first process chooses and the others follow: what is stored meanwhile changes nothing.

        Raises:
            FilesUnavailableError: a machine cannot have the state; raised on all.
        """
        report_presence()
        if self._shelf is None:
            return
        shelf = self._shelf
        state, problem = _attempt(shelf.choose) if is_first() else (None, "")
        state, problem = gathered((state, problem))[0]
        if state is not None and is_first_here():
            _, problem = _attempt(partial(shelf.take, state))
        for found in gathered(problem):
            if found:
                raise FilesUnavailableError(found, field="--state-url")

    def saved(self) -> None:
        """Has the new state of the run folder stored while training goes on."""
        if self._shelf is not None:
            self._shelf.store_soon()

    def finish(self) -> bool | None:
        """Stores what the run folder has at the end; returns whether it is there.

        Returns None where there is no address.
        """
        if self._shelf is None:
            return None
        is_stored = self._shelf.finish()
        if not is_stored:
            _tell("the last state is not there; the same command stores it")
        return is_stored


def _attempt(act: Callable[[], _Value]) -> tuple[_Value | None, str]:
    """Returns what an act returns, and "" or what went wrong."""
    try:
        return act(), ""
    except (BackendError, OSError) as error:
        return None, str(error)


def _tell(text: str) -> None:
    typer.echo(f"calico: --state-url: {text}", err=True)
