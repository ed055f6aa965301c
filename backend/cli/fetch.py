"""`calico fetch`: downloads the weights that a 7B model is assembled from, or those of a source."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from backend.cli.carried import (
    Carried,
    Receipt,
    check_weights,
    read_receipt,
    write_receipt,
)
from backend.cli.hub import Hub, HubFile, Repository
from backend.cli.sources import (
    PRESETS,
    RELEASES,
    Selection,
    WeightSource,
    index_of,
    select,
    select_source,
    still_needed,
)
from backend.cli.tables import print_fitted
from backend.errors import FetchError
from backend.settings import load_settings
from calico_model.sources.known import KNOWN_SOURCES, KnownSource
from calico_model.staging import file_sha256

_GIGABYTE = 1e9
_SPARE_BYTES = 2**30  # stays free on the disk


class RepositoryReader(Protocol):
    """Where files come from: the hub, or a folder that was copied from another machine."""

    def repository(self, name: str) -> Repository:
        """Lists a repository."""

    def text(self, repository: Repository, name: str) -> str:
        """Reads a small file."""

    def download(
        self, repository: Repository, name: str, to: Path, on_bytes: Callable[[int], None]
    ) -> None:
        """Puts one complete and checked file at its path."""


@dataclass(frozen=True)
class _Wanted:
    """One repository and the files to fetch from it."""

    source: WeightSource
    repository: Repository
    selection: Selection
    place: str  # below the folder

    @property
    def files(self) -> tuple[HubFile, ...]:
        return tuple(self.repository.files[name] for name in self.selection.files)


def fetch(
    preset: Annotated[
        str | None, typer.Option("--preset", help=f"Public parts: {', '.join(PRESETS)}.")
    ] = None,
    release: Annotated[
        str | None,
        typer.Option("--release", help=f"A trained model instead: {', '.join(RELEASES)}."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="NAME", help="A segmenter to ask beside CALICO: docs/sources.md."
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="Folder of the files; ./calico-7b, or for a source its place in the data folder, "
            "if not given.",
        ),
    ] = None,
    carried: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="Copy files from this folder, without a network."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept sizes and licences without a question.")
    ] = False,
) -> None:
    """Download the released weights of a 7B model or of a source, only the files that are needed.

    It first shows sizes, licences and free disk space. The same command continues a download that
    was interrupted. Some repositories need a token of their owner: set HF_TOKEN.

    Examples:
    calico fetch --preset 7b --to weights
    calico fetch --preset 7b --to weights --from DIR
    calico fetch --source sam2.1-tiny

    Without internet: run the command on a machine that has it, copy the folder to this one, and
    run the command again here with --from. The cache of the hub's own client works as well.

    Afterwards, `calico doctor --model DIR` shows the memory that the model needs, and `calico
    predict --weights DIR` uses the model. A source is added by CALICO_SOURCES=NAME.

    The last line of the output is JSON: folder, files, bytes, arrived_bytes.
    """
    origin: RepositoryReader = (
        Hub() if carried is None else Carried(carried, is_source=source is not None)
    )
    if source is not None:
        known = _known_source(source, preset, release)
        what, folder = source, to or load_settings().sources_dir / source
        wanted: tuple[_Wanted, ...] = (_wanted_source(origin, known),)
    else:
        what, sources = _choice(preset, release)
        folder = to or Path("calico-7b")
        wanted = tuple(_wanted(origin, sources))
    there = _there(folder, wanted)
    print_fitted(_table(wanted, there))
    missing = sum(
        file.nbytes for w in wanted for file in w.files if _path(folder, w, file) not in there
    )
    if missing:
        _check_disk(folder, missing)
        _agree(yes)
    arrived = _bring(origin, folder, wanted, there, missing)
    repositories = tuple(
        Repository(
            w.repository.name,
            w.repository.revision,
            w.repository.licence,
            {file.name: file for file in w.files},
        )
        for w in wanted
    )
    write_receipt(folder, Receipt(what, repositories))
    files = [file for w in wanted for file in w.files]
    outcome = {
        "folder": str(folder),
        "files": len(files),
        "bytes": sum(file.nbytes for file in files),
        "arrived_bytes": arrived,
    }
    typer.echo(json.dumps(outcome))


def _choice(preset: str | None, release: str | None) -> tuple[str, tuple[WeightSource, ...]]:
    if (preset is None) == (release is None):
        raise FetchError(
            "expected --preset 7b for the public parts, --release calico or --source NAME"
        )
    option, known = ("--release", RELEASES) if preset is None else ("--preset", PRESETS)
    what = preset or release or ""
    if what not in known:
        raise FetchError(f"{option}: expected {' or '.join(known)}, got {what!r}")
    return what, known[what]


def _known_source(name: str, preset: str | None, release: str | None) -> KnownSource:
    if preset is not None or release is not None:
        raise FetchError("--source: expected it without --preset and --release")
    if name not in KNOWN_SOURCES:
        raise FetchError(f"--source: expected one of {', '.join(KNOWN_SOURCES)}, got {name!r}")
    return KNOWN_SOURCES[name]


def _wanted(origin: RepositoryReader, sources: tuple[WeightSource, ...]) -> Iterator[_Wanted]:
    """Yields every repository that adds a part; GLaMM usually holds SAM already."""
    given: frozenset[str] = frozenset()
    for source in sources:
        if not still_needed(source, given):
            continue
        repository = origin.repository(source.repository)
        index = index_of(repository.files)
        text = None if index is None else origin.text(repository, index)
        selection = select(source, repository.files, text)
        given |= selection.parts
        yield _Wanted(source, repository, selection, repository.name)


def _wanted_source(origin: RepositoryReader, known: KnownSource) -> _Wanted:
    """Returns the files of a source of masks, which lie in the folder itself."""
    repository = origin.repository(known.repository)
    index = index_of(repository.files)
    text = None if index is None else origin.text(repository, index)
    abilities = ", ".join(sorted(known.abilities))
    is_stated = repository.licence.lower() == known.licence.lower()
    terms = "" if is_stated else known.licence
    source = WeightSource(known.repository, abilities, frozenset(), terms=terms)
    return _Wanted(source, repository, select_source(known, repository.files, text), "")


def _path(folder: Path, wanted: _Wanted, file: HubFile) -> Path:
    return folder / wanted.place / file.name


def _there(folder: Path, wanted: tuple[_Wanted, ...]) -> set[Path]:
    """Returns the files that are in place already: listed by the receipt, or checked now."""
    receipt = read_receipt(folder)
    listed = {} if receipt is None else {r.name: r.files for r in receipt.repositories}
    present = set()
    for w in wanted:
        for file in w.files:
            path = _path(folder, w, file)
            if path.is_file() and path.stat().st_size == file.nbytes:
                is_listed = listed.get(w.repository.name, {}).get(file.name) == file
                if is_listed or file.sha256 is None or file_sha256(path) == file.sha256:
                    present.add(path)
    return present


def _table(wanted: tuple[_Wanted, ...], there: set[Path]) -> Table:
    total = sum(file.nbytes for w in wanted for file in w.files)
    table = Table(title=f"{total / _GIGABYTE:.1f} GB, {len(there)} files are here already")
    for name in ("repository", "gives", "files", "GB", "licence"):
        table.add_column(name, justify="right" if name in ("files", "GB") else "left")
    for w in wanted:
        size = sum(file.nbytes for file in w.files)
        licence = w.repository.licence or "not stated: see its page"
        table.add_row(
            w.repository.name,
            w.source.gives,
            str(len(w.files)),
            f"{size / _GIGABYTE:.2f}",
            f"{licence}; {w.source.terms}" if w.source.terms else licence,
        )
    return table


def _check_disk(folder: Path, missing: int) -> None:
    existing = next(
        place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()
    )
    if not existing.is_dir():
        raise FetchError(f"--to: expected a folder, got the file {existing}")
    free = shutil.disk_usage(existing).free
    if free < missing + _SPARE_BYTES:
        raise FetchError(
            f"--to: {folder} has {free / _GIGABYTE:.1f} GB free, and "
            f"{(missing + _SPARE_BYTES) / _GIGABYTE:.1f} GB are needed"
        )


def _agree(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise FetchError("no terminal to ask on: add --yes to accept sizes and licences")
    typer.confirm("Download these files under their licences?", abort=True, err=True)


def _bring(
    origin: RepositoryReader,
    folder: Path,
    wanted: tuple[_Wanted, ...],
    there: set[Path],
    missing: int,
) -> int:
    arrived = 0
    with _bar(missing) as (describe, advance):

        def on_bytes(count: int) -> None:
            nonlocal arrived
            arrived += count
            advance(count)

        for w in wanted:
            for file in w.files:
                path = _path(folder, w, file)
                where = f"{w.repository.name}/{file.name}"
                if path not in there:
                    describe(where)
                    origin.download(w.repository, file.name, path, on_bytes)
                check_weights(path, where)
    return arrived


@contextmanager
def _bar(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=total)
        yield (
            lambda text: progress.update(task, description=text),
            lambda count: progress.advance(task, count),
        )
