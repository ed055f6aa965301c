"""What add-ons learn from, computed once by frozen weights and kept in chunks on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from calico_model.data.pool import ScenePool
from calico_model.errors import CheckpointError
from calico_model.modeling.model import Calico
from calico_model.staging import staged_folder
from calico_model.tokenizer import Tokenizer
from calico_model.training.frozen import encoder_fingerprint

_FILE = "lessons.safetensors"
_Chunk = TypeVar("_Chunk")


class ChunkFolder(ABC, Generic[_Chunk]):
    """Chunks for one set of weights; made once, read again and again.

    Args:
        folder: may hold the chunks of several weights.
        model: frozen, in evaluation mode.
        tokenizer: of the model.
        pool: scenes to draw pairs from.
        seed: of the pairs, and of what a step draws.
        chunks: how many there are to be.
    """

    kind: ClassVar[str] = ""
    """Begins the key of the chunks: others of the same weights may lie beside them."""

    def __init__(
        self,
        folder: Path,
        model: Calico,
        tokenizer: Tokenizer,
        pool: ScenePool,
        *,
        seed: int,
        chunks: int,
    ) -> None:
        about = f"{self.kind}{encoder_fingerprint(model)} {language_key(model)} {seed}"
        self._folder = folder / sha256(about.encode()).hexdigest()[:16]
        self._model, self._tokenizer, self._pool = model, tokenizer, pool
        self._seed, self._chunks = seed, chunks

    def fill(self, on_chunk: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Makes the chunks that are missing; a killed run goes on where it was.

        Args:
            on_chunk: called after each chunk with how many are done and of how many.
        """
        for index in range(self._chunks):
            if not (self._path(index) / _FILE).is_file():
                tensors = dict(self._pack(self._make(index)))
                with staged_folder(self._path(index)) as staged:
                    save_file(tensors, staged / _FILE)
            on_chunk(index + 1, self._chunks)

    def draw(self, step: int) -> tuple[_Chunk, np.random.Generator]:
        """Returns a chunk for a 0-based training step, and the source of its further choices."""
        rng = np.random.default_rng((self._seed, 1, step))
        return self.read(int(rng.integers(self._chunks))), rng

    def read(self, index: int) -> _Chunk:
        """Reads one chunk.

        Raises:
            CheckpointError: missing or damaged.
        """
        try:
            return self._unpack(load_file(self._path(index) / _FILE))
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{self._path(index).name}/{_FILE}: {error}") from error

    def _path(self, index: int) -> Path:
        return self._folder / f"chunk-{index:04d}"

    @abstractmethod
    def _make(self, index: int) -> _Chunk:
        """Computes a chunk, the same at every call."""

    @abstractmethod
    def _pack(self, chunk: _Chunk) -> Mapping[str, Tensor]:
        """Returns the tensors to write, contiguous and in main memory."""

    @abstractmethod
    def _unpack(self, tensors: Mapping[str, Tensor]) -> _Chunk:
        """Returns the chunk of written tensors; KeyError where one is missing."""


def language_key(model: Calico) -> str:
    """Returns a hash of what decides the prompts of a frozen model, beside its encoders."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if ".lora_" in name:
            continue  # silent in a base, and drawn anew at every load
        if name.startswith(("language.", "segmentation_projection.", "qformer.", "cams.", "cem.")):
            digest.update(name.encode())
            digest.update(tensor.detach().float().sum(dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()
