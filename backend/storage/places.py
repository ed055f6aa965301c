"""Files at a path or an address: a local file, or an object in a bucket (s3://, gs://).

Buckets are read through fsspec, which is imported with the first address.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from backend.errors import SettingsError

SCHEMES = {"s3": "s3fs", "gs": "gcsfs"}
"""Schemes of buckets, and the library that each needs."""


def is_remote(place: str) -> bool:
    """Whether a place is in a bucket."""
    return place.partition("://")[0] in SCHEMES and "://" in place


def join_place(folder: str, name: str) -> str:
    """Returns the place of a file by its name in a folder; an absolute path stays."""
    if is_remote(folder):
        return f"{folder}/{name}"
    return str(Path(folder) / name)


def read_place(place: str) -> bytes:
    """Returns the content of a file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read now.
        SettingsError: a library is missing.
    """
    if not is_remote(place):
        return Path(place).read_bytes()
    try:
        content: bytes = _bucket(place).cat_file(place)
        return content
    except (OSError, SettingsError):
        raise
    except Exception as error:  # the clients of buckets raise errors of many kinds
        raise OSError(f"{place}: {type(error).__name__}: {error}") from error


def list_place(place: str) -> list[str]:
    """Returns the files in a folder and its subfolders, hidden ones left out.

    Raises:
        OSError: it cannot be read now, or is no folder.
        SettingsError: a library is missing.
    """
    if is_remote(place):
        scheme = place.partition("://")[0]
        try:
            found = _bucket(place).find(place)
        except (OSError, SettingsError):
            raise
        except Exception as error:  # as above
            raise OSError(f"{place}: {type(error).__name__}: {error}") from error
        return [f"{scheme}://{name}" for name in found if "/." not in name]
    if not Path(place).is_dir():
        raise NotADirectoryError(f"expected a folder or a .csv file, got {place}")
    names = []
    for parent, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        names += [str(Path(parent, name)) for name in files if not name.startswith(".")]
    return names


def bucket_library(scheme: str) -> Any:
    """Returns fsspec, once it can reach buckets of a scheme.

    Raises:
        SettingsError: the library for it is missing.
    """
    try:
        import fsspec

        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise SettingsError(
            f"{scheme}:// needs {SCHEMES[scheme]}; install calico-labeling[servers]"
        ) from None
    return fsspec


def _bucket(place: str) -> Any:
    scheme = place.partition("://")[0]
    return bucket_library(scheme).filesystem(scheme)
