"""Looks at every photograph of a folder once: hash, size, time, looks, and what it shows.

Threads decode and encode, one per core: both leave Python's lock alone. What was seen before comes
from the cache, and what is new is kept as it comes, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from backend.cli.photo_cache import Facts, PhotoCache
from backend.cli.photo_folder import Listing, Skipped
from calico_model.errors import InvalidImageError
from calico_model.picture import read_reduced
from calico_model.similarity.duplicates import fingerprint
from calico_model.similarity.encoding import ENCODER, SIDE, PhotoEncoder
from calico_model.types import Vector

_SAVE_S = 2.0
_WAITING = 4  # photographs in line per thread


@dataclass(frozen=True, eq=False)
class Photograph:
    """One file that can be imported.

    Attributes:
        name: relative to the folder.
        facts: what the file is.
        vector: what it shows, (1280,) float32; None if nobody asked.
    """

    name: str
    facts: Facts
    vector: Vector | None = None


@dataclass(frozen=True)
class Survey:
    """All files of a folder.

    Attributes:
        photographs: readable ones, in the order of the listing.
        broken: those that cannot be read.
        fresh: how many had to be read, because the cache did not know them.
    """

    photographs: tuple[Photograph, ...]
    broken: tuple[Skipped, ...]
    fresh: int


def survey(
    listing: Listing, cache: PhotoCache, *, with_vectors: bool, tell: Callable[[int], None]
) -> Survey:
    """Looks at all photographs of a folder.

    Args:
        listing: of the folder.
        cache: of earlier runs.
        with_vectors: whether to encode what they show.
        tell: called with the number of photographs done.
    """
    known: dict[str, Photograph] = {}
    missing: list[str] = []
    for name in listing.names:
        found = _remembered(listing.folder / name, name, cache, with_vectors=with_vectors)
        if found is None:
            missing.append(name)
        else:
            known[name] = found
    tell(len(known))
    broken: dict[str, Skipped] = {}
    if missing:
        encoder = PhotoEncoder() if with_vectors else None
        _look_at_all(listing.folder, missing, cache, encoder, known, broken, tell)
    return Survey(
        photographs=tuple(known[name] for name in listing.names if name in known),
        broken=tuple(broken[name] for name in listing.names if name in broken),
        fresh=len(missing),
    )


def _remembered(
    path: Path, name: str, cache: PhotoCache, *, with_vectors: bool
) -> Photograph | None:
    """What the cache knows of a file; None if any of it is missing."""
    try:
        facts = cache.facts(path, path.stat())
    except OSError:
        return None  # looking at it will say why
    if facts is None or not with_vectors:
        return None if facts is None else Photograph(name, facts)
    vector = cache.vector(facts.digest, ENCODER)
    return None if vector is None else Photograph(name, facts, vector)


def _look_at_all(
    folder: Path,
    names: list[str],
    cache: PhotoCache,
    encoder: PhotoEncoder | None,
    known: dict[str, Photograph],
    broken: dict[str, Skipped],
    tell: Callable[[int], None],
) -> None:
    """Fills `known`, `broken` and the cache."""
    with _ThreadPerCore() as pool:
        saved_at = time.monotonic()
        running: dict[Future[tuple[Photograph, os.stat_result]], str] = {}
        coming = iter(names)
        while True:
            while len(running) < _WAITING * pool.threads and (name := next(coming, None)):
                running[pool.submit(_look_at, folder, name, encoder)] = name
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                try:
                    photograph, state = future.result()
                except (InvalidImageError, OSError) as error:
                    broken[name] = Skipped(name, _reason(error, name))
                    continue
                known[name] = photograph
                _keep(cache, folder / name, state, photograph)
            tell(len(known) + len(broken))
            if time.monotonic() - saved_at > _SAVE_S:
                cache.save()
                saved_at = time.monotonic()
    cache.save()


class _ThreadPerCore(ThreadPoolExecutor):
    """Threads that each compute alone: torch's own threads would fight for the same cores."""

    def __init__(self) -> None:
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        super().__init__(self.threads, initializer=_compute_alone)


def _compute_alone() -> None:
    torch.set_num_threads(1)


def _look_at(
    folder: Path, name: str, encoder: PhotoEncoder | None
) -> tuple[Photograph, os.stat_result]:
    path = folder / name
    state = path.stat()
    content = path.read_bytes()
    picture = read_reduced(content, SIDE, name=name)
    facts = Facts(
        hashlib.sha256(content).hexdigest(),
        picture.size_hw,
        picture.taken,
        fingerprint(picture.pixels),
    )
    photograph = Photograph(name, facts)
    if encoder is not None:
        photograph = replace(photograph, vector=encoder.vector(picture.pixels))
    return photograph, state


def _keep(cache: PhotoCache, path: Path, state: os.stat_result, photograph: Photograph) -> None:
    cache.keep(path, state, photograph.facts)
    if photograph.vector is not None:
        cache.keep_vector(photograph.facts.digest, ENCODER, photograph.vector)


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return str(error).removeprefix(f"{name}: ")
