"""Frozen features of images on disk: encoded once, for many epochs of training.

One safetensors file per image, in bfloat16, named by the hash of the image file's bytes, in a
folder named by the fingerprint of the encoders. A file is written under another name and then
renamed, so that it is never incomplete. It is mapped into memory when it is read, and every read
checks its checksum.
"""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.staging import is_alive

_GIB = 2**30


class FeatureStore:
    """Features of single images by content; safe for several processes.

    Attributes:
        folder: of the encoders' files.
    """

    def __init__(self, folder: Path, *, encoder: str, max_bytes: int) -> None:
        """Opens a store.

        Args:
            folder: may hold the features of several encoders.
            encoder: fingerprint of everything that determines the features of an image.
            max_bytes: limit of all files in `folder`.
        """
        self.folder = folder / encoder[:16]
        self._root, self._max_bytes = folder, max_bytes
        self._encoder = encoder

    def path(self, key: str) -> Path:
        """Returns the path of the file of one image, whether it exists or not."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def reserve(self, images: int, bytes_each: int) -> None:
        """Checks that further images will fit, before the first is encoded.

        Args:
            images: number of further images.
            bytes_each: size of the features of one image.

        Raises:
            InvalidConfigError: they exceed the limit or the free space of the disk.
        """
        if not images:
            return
        self._root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        used = sum(p.stat().st_size for p in self._root.rglob("*.safetensors"))
        need = images * bytes_each
        what = f"{images} images need {need / _GIB:.2f} GiB"
        if used + need > self._max_bytes:
            raise InvalidConfigError(
                f"feature cache: {what} beside the {used / _GIB:.2f} GiB in {self._root}, "
                f"but its ceiling is {self._max_bytes / _GIB:.2f} GiB; raise the ceiling or "
                "train without the cache"
            )
        free = shutil.disk_usage(self._root).free
        if need > free:
            raise InvalidConfigError(
                f"feature cache: {what}, but the disk of {self._root} has "
                f"{free / _GIB:.2f} GiB left"
            )

    def _sweep(self) -> None:
        """Removes incomplete files of processes of this machine that were killed."""
        for path in self._root.rglob(".*.safetensors.*"):
            if not is_alive(int(path.suffix[1:])):
                path.unlink(missing_ok=True)

    def put(self, key: str, features: ImageFeatures) -> None:
        """Writes the features of one image, rounded to bfloat16.

        Raises:
            CheckpointError: the file cannot be written; no incomplete file stays.
        """
        path = self.path(key)
        tensors = _named(features)
        notes = {"encoder": self._encoder, "key": key, "checksum": _checksum(tensors)}
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, staged, notes)
            staged.replace(path)
        except (OSError, SafetensorError) as error:
            staged.unlink(missing_ok=True)
            raise CheckpointError(f"{path}: could not be written: {error}") from error

    def get(self, key: str) -> ImageFeatures:
        """Maps the features of one image, (1, ...) bfloat16 tensors on the CPU.

        Raises:
            CheckpointError: the file is missing or damaged. A damaged file is removed, so that the
                next run encodes its image again.
        """
        path = self.path(key)
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; run again to encode the image anew")
        try:
            with safe_open(path, "pt") as file:
                notes = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (OSError, SafetensorError) as error:
            raise self._removed(path, str(error)) from error
        expected = {"encoder": self._encoder, "key": key, "checksum": _checksum(tensors)}
        if notes != expected:
            raise self._removed(path, "its content does not fit its checksum")
        fine, photo = (
            tuple(tensors[name] for name in sorted(tensors) if name.startswith(prefix))
            for prefix in ("fine_", "photo_")
        )
        return ImageFeatures(
            tensors["global"], tensors["semantic"], MaskFeatures(tensors["embedding"], fine), photo
        )

    def _removed(self, path: Path, reason: str) -> CheckpointError:
        path.unlink(missing_ok=True)
        return CheckpointError(
            f"{path}: damaged: {reason}; removed, run again to encode the image anew"
        )


def _named(features: ImageFeatures) -> dict[str, Tensor]:
    tensors = {
        "embedding": features.mask.embedding,
        "global": features.global_tokens,
        "semantic": features.semantic_tokens,
    }
    tensors |= {f"fine_{n}": fine for n, fine in enumerate(features.mask.fine)}
    tensors |= {f"photo_{n}": photo for n, photo in enumerate(features.photo)}
    return {name: t.to("cpu", torch.bfloat16).contiguous() for name, t in tensors.items()}


def _checksum(tensors: dict[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
