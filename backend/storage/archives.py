"""Archives of a folder: one file that is the same bytes for the same files, and back."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from backend.errors import DamagedFilesError
from calico_model.staging import sync


def pack(folder: Path, archive: Path) -> None:
    """Writes the files of a folder and its subfolders into one archive.

    Args:
        folder: plain files and folders; empty folders are left out.
        archive: file to write.
    """
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            about = tarfile.TarInfo(path.relative_to(folder).as_posix())
            about.size = path.stat().st_size
            with path.open("rb") as file:
                packed.addfile(about, file)


def unpack(archive: Path, folder: Path, *, what: str, deep: bool = False) -> None:
    """Writes the files of an archive into a new folder, synced.

    Args:
        archive: as `pack` writes it.
        folder: made.
        what: the archive holds, for messages.
        deep: whether files may lie in subfolders.

    Raises:
        DamagedFilesError: it is no archive of plain files.
    """
    folder.mkdir()
    try:
        with tarfile.open(archive, "r:") as packed:
            for about in packed:
                content = packed.extractfile(about) if about.isfile() else None
                if content is None or not _is_plain(about.name, deep):
                    raise DamagedFilesError(f"{what} is damaged: {about.name!r} is no plain file")
                place = folder / about.name
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as file:
                    shutil.copyfileobj(content, file)
                sync(place)
    except tarfile.TarError as error:
        raise DamagedFilesError(f"{what} is damaged: {error}") from error
    sync(folder)


def _is_plain(name: str, deep: bool) -> bool:
    path = PurePosixPath(name)
    is_inside = not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
    return is_inside and name != "." and (deep or len(path.parts) == 1)
