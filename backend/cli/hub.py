"""Downloads from the hub's public repositories: their file lists, and one file at a time.

An interrupted download resumes at the same byte, in this process or in the next one; the hub's own
client restarts the file in every process, and compares no sha256. Here a file gets its name only
after its size and sha256 were compared with the list of the hub.
"""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from backend.errors import FetchError
from calico_model.staging import file_sha256


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it.

    Attributes:
        name: path in the repository.
        nbytes: size in bytes.
        sha256: of a large file, else None.
    """

    name: str
    nbytes: int
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        name: owner/name.
        revision: the commit.
        licence: as the model card states it, or "".
        files: by name.
    """

    name: str
    revision: str
    licence: str
    files: dict[str, HubFile]


class Hub:
    """Reads repositories of one hub.

    Args:
        endpoint: address of the hub; None is HF_ENDPOINT, or the public hub.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint
        self._api = HfApi(endpoint=endpoint, library_name="calico")
        logging.getLogger("huggingface_hub").setLevel(
            logging.ERROR
        )  # our own errors name file and remedy

    def repository(self, name: str) -> Repository:
        """Lists a repository's files with sizes and checksums.

        Raises:
            FetchError: no network, no such repository, or no access.
        """
        with _explained(name):
            info = self._api.model_info(name, files_metadata=True)
        card = info.card_data
        licence = str(card.get("license") or "") if card is not None else ""
        files = {
            file.rfilename: HubFile(
                file.rfilename, file.size or 0, None if file.lfs is None else file.lfs.sha256
            )
            for file in info.siblings or ()
        }
        return Repository(name, str(info.sha), licence, files)

    def text(self, repository: Repository, name: str) -> str:
        """Reads a small file.

        Raises:
            FetchError: as `download`.
        """
        buffer = io.BytesIO()
        with _explained(f"{repository.name}/{name}"):
            self._get(repository, name, buffer, 0, lambda _: None)
        return buffer.getvalue().decode("utf-8", "replace")

    def download(
        self, repository: Repository, name: str, to: Path, on_bytes: Callable[[int], None]
    ) -> None:
        """Downloads one file, resuming where an earlier attempt stopped.

        Args:
            repository: the list of its files.
            name: name of the file.
            to: path of the file; an unfinished copy is kept beside it.
            on_bytes: called with the number of bytes that arrived; negative if bytes were lost.

        Raises:
            FetchError: no network, no access, a full disk, or not the bytes that the hub lists.
        """
        file = repository.files[name]
        where = f"{repository.name}/{name}"
        # The name holds the commit, so bytes of different versions are never joined.
        partial = to.with_name(f".{to.name}.{repository.revision[:12]}.partial")
        with _explained(where):
            to.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as out:
                if out.tell() > file.nbytes:
                    out.truncate(0)
                on_bytes(out.tell())
                if out.tell() < file.nbytes:
                    self._get(repository, name, out, out.tell(), on_bytes)
                out.flush()
                os.fsync(out.fileno())
            check_bytes(partial, file, where)
            partial.chmod(0o644)
            partial.rename(to)

    def _get(
        self,
        repository: Repository,
        name: str,
        out: BinaryIO,
        start: int,
        on_bytes: Callable[[int], None],
    ) -> None:
        url = hf_hub_url(
            repository.name, name, revision=repository.revision, endpoint=self._endpoint
        )
        headers = {**build_hf_headers(library_name="calico"), "Accept-Encoding": "identity"}
        http_get(
            url,
            out,
            resume_size=start,
            headers=headers,
            expected_size=repository.files[name].nbytes,
            tqdm_class=cast(Any, _counting(on_bytes)),
        )


def check_bytes(path: Path, file: HubFile, where: str) -> None:
    """Compares a file with the size and sha256 that the hub lists; deletes it if it differs.

    Raises:
        FetchError: another size or sha256.
    """
    if path.stat().st_size != file.nbytes:
        nbytes = path.stat().st_size
        path.unlink()
        raise FetchError(f"{where}: expected {file.nbytes} bytes, got {nbytes}; fetch again")
    if file.sha256 is not None and file_sha256(path) != file.sha256:
        path.unlink()
        raise FetchError(f"{where}: its sha256 is not the listed one; fetch again")


def _counting(on_bytes: Callable[[int], None]) -> type:
    """Returns a replacement for tqdm that draws nothing and reports the bytes that arrive."""

    class Counter:
        def __init__(self, *_args: object, **_options: object) -> None:
            pass

        def update(self, count: int) -> None:
            on_bytes(count)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_details: object) -> None:
            pass

    return Counter


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turns errors of the hub's client into FetchError with a remedy."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise FetchError(f"{where}: HF_HUB_OFFLINE is set; unset it, or use --from") from error
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{'/'.join(where.split('/')[:2])}"
        raise FetchError(
            f"{where}: its owners ask you to accept their terms: accept them at {page}, "
            "then set HF_TOKEN or run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FetchError(
            f"{where}: no such repository, or a private one; for a private one set HF_TOKEN or "
            "run `hf auth login`"
        ) from error
    except EntryNotFoundError as error:
        raise FetchError(f"{where}: the hub lists this file but does not have it") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        denied = "; the hub refuses the token in HF_TOKEN" if status in (401, 403) else ""
        raise FetchError(f"{where}: the hub answered {status}{denied}") from error
    except HTTPError as error:
        raise FetchError(
            f"{where}: the hub cannot be reached ({type(error).__name__}). Complete files are "
            "kept: run the same command again, or copy the files here and use --from"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FetchError(f"{where}: the disk is full; free some and run it again") from error
        raise FetchError(f"{where}: {error}") from error
