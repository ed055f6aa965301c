"""A released checkpoint on disk, read one tensor at a time.

Knows files: safetensors, weights-only pickles (`.bin`, `.pth`), shards with an index. Does not know
what the names mean. Nothing a pickle could run is ever run.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - caught, never used to load

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from calico_model.errors import CheckpointError

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PICKLES = ("pytorch_model*.bin", "adapter_model.bin", "non_lora_trainables.bin", "*.pth")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)")
# Torch's message that a pickle wants to call a function.
_FOREIGN = re.compile(r"nsupported (?:global: )?GLOBAL (\S+)")
# Checkpoints of a training loop keep the weights under one of these.
_WRAPPERS = ("model", "state_dict")


class ReleasedTensors:
    """The named tensors of one released model, spread over one file or many.

    Attributes:
        name: path below the searched folder, for messages.
        folder: holds tokenizer and configuration of the model.
    """

    def __init__(self, name: str, folder: Path, file_of: Mapping[str, Path], listing: str) -> None:
        self.name, self.folder = name, folder
        self._file_of, self._listing = dict(file_of), listing
        self._shapes: dict[Path, dict[str, tuple[int, ...]]] = {}
        self._pickle: tuple[Path, dict[str, Tensor]] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """All released names."""
        return tuple(self._file_of)

    def where(self, key: str) -> str:
        """Names file and key for a message."""
        return f"{self.name}/{self._file_of[key].name}: {key}"

    def file(self, key: str) -> Path:
        """The file that holds a tensor."""
        return self._file_of[key]

    def shape(self, key: str) -> tuple[int, ...]:
        """PaintedShape of a tensor, from its file's header.

        Raises:
            CheckpointError: the file is missing or damaged, or does not hold the tensor.
        """
        path = self._file_of[key]
        if not path.is_file():
            raise CheckpointError(
                f"{self.name}/{self._listing}: {key} is in {path.name}, which is missing"
            )
        if path not in self._shapes:
            self._shapes[path] = self._read_shapes(path)
        if key not in self._shapes[path]:
            raise CheckpointError(f"{self.where(key)}: not in this file, but {self._listing} says")
        return self._shapes[path][key]

    def read(self, key: str) -> Tensor:
        """Reads one tensor to the CPU, in the dtype it was released in.

        Raises:
            CheckpointError: as `shape`, or a value is not finite.
        """
        self.shape(key)
        path = self._file_of[key]
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt") as file:
                    tensor: Tensor = file.get_tensor(key)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{self.where(key)}: cannot be read: {error}") from error
        else:
            tensor = self._read_pickle(path)[key]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{self.where(key)}: holds values that are not finite")
        return tensor

    def _read_shapes(self, path: Path) -> dict[str, tuple[int, ...]]:
        if path.suffix == ".safetensors":
            return safetensors_shapes(path, f"{self.name}/{path.name}")
        return {key: tuple(tensor.shape) for key, tensor in self._read_pickle(path).items()}

    def _read_pickle(self, path: Path) -> dict[str, Tensor]:
        # One file stays open: its tensors are views of the mapped file, not copies.
        if self._pickle is None or self._pickle[0] != path:
            self._pickle = path, read_pickle(path, f"{self.name}/{path.name}")
        return self._pickle[1]


def safetensors_shapes(path: Path, label: str) -> dict[str, tuple[int, ...]]:
    """Reads the header of a safetensors file.

    Raises:
        CheckpointError: truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{label}: not a readable safetensors file: {error}") from error


def read_pickle(path: Path, label: str) -> dict[str, Tensor]:
    """Opens a `.bin` or `.pth` file, weights only; the tensors stay in the file until touched.

    Raises:
        CheckpointError: truncated, holds anything but tensors, or would run code.
    """
    is_zip = zipfile.is_zipfile(path)
    try:
        # Only the zip form can be mapped; files from before torch 1.6 are read whole.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        if not is_zip and _is_cut_zip(path):
            raise CheckpointError(f"{label}: truncated") from error
        if call := _FOREIGN.search(str(error)):
            raise CheckpointError(
                f"{label}: refused: expected tensors only, found a call of {call[1]}"
            ) from error
        raise CheckpointError(f"{label}: damaged, or not tensors only") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{label}: not a readable weights file: {_reason(error)}") from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{label}: expected a table of tensors, got {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}


def _is_cut_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _reason(error: Exception) -> str:
    """The first line; the others are advice for other programs."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def find_sources(folder: Path) -> Iterator[ReleasedTensors]:
    """Finds every released checkpoint in a folder and the two levels of folders below it.

    Raises:
        CheckpointError: an index or a lone file that cannot be read, or a set of numbered shards
            with a number missing.
    """
    children = _folders(folder)
    levels = [folder, *children, *(inner for child in children for inner in _folders(child))]
    for place in levels:
        name = place.relative_to(folder.parent).as_posix()
        yield from _sources_in(place, name)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _sources_in(folder: Path, name: str) -> Iterator[ReleasedTensors]:
    for index in _INDICES:
        if (folder / index).is_file():
            yield _from_index(folder, index, name)
            return  # the other format of the same weights, when there is one, is not needed
    tensors = sorted(folder.glob("*.safetensors"))
    pickles = sorted({path for pattern in _PICKLES for path in folder.glob(pattern)})
    if tensors:
        pickles = [path for path in pickles if not path.match("pytorch_model*.bin")]
    sets: dict[str, list[Path]] = {}
    for path in (*tensors, *pickles):
        match = _SHARD.fullmatch(path.name)
        sets.setdefault(match[1] + match[4] if match else path.name, []).append(path)
    for files in sets.values():
        _check_complete(files, name)
        file_of = {key: path for path in files for key in _keys(path, name)}
        yield ReleasedTensors(name, folder, file_of, files[0].name)


def _check_complete(files: list[Path], name: str) -> None:
    match = _SHARD.fullmatch(files[0].name)
    if match is None:
        return
    present = {path.name for path in files}
    for number in range(1, int(match[3]) + 1):
        wanted = f"{match[1]}-{number:05d}-of-{match[3]}{match[4]}"
        if wanted not in present:
            raise CheckpointError(f"{name}/{wanted}: missing")


def _keys(path: Path, name: str) -> list[str]:
    label = f"{name}/{path.name}"
    if path.suffix == ".safetensors":
        return list(safetensors_shapes(path, label))
    return list(read_pickle(path, label))


def _from_index(folder: Path, index: str, name: str) -> ReleasedTensors:
    try:
        listed = json.loads((folder / index).read_text("utf-8"))["weight_map"]
        file_of = {str(key): folder / Path(str(file)).name for key, file in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{name}/{index}: expected an object with a weight_map: {error!r}"
        ) from error
    return ReleasedTensors(name, folder, file_of, index)
