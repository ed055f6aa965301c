"""Pixels of images, and their frozen features.

Features are computed once and shared by all questions, clicks and updates.

Legend: M images, T_g global tokens, T_s semantic tokens, C prompt width, G embedding grid.
Knows tensors. Does not know where images come from.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from cachetools import LRUCache
from torch import Tensor

from calico_model.modeling.mask_decoder import MaskFeatures


@dataclass(frozen=True)
class Pixels:
    """Input tensors of M images; a model with a trunk needs neither `eva` nor `dino`.

    Attributes:
        square: (M, 3, S, S) SAM-normalised, longest side scaled to S, zero padded.
        eva: (M, 3, E, E) CLIP-normalised, or None.
        dino: (M, 3, F, F) ImageNet-normalised, or None.
        photo: M images (3, h_i, w_i) for the photo trunk, values 0-255, sides multiples of 32; or
            empty.
    """

    square: Tensor
    eva: Tensor | None = None
    dino: Tensor | None = None
    photo: tuple[Tensor, ...] = ()

    def to(self, device: str | torch.device) -> Pixels:
        """Moves all tensors to a device."""
        eva = None if self.eva is None else self.eva.to(device)
        dino = None if self.dino is None else self.dino.to(device)
        photo = tuple(image.to(device) for image in self.photo)
        return Pixels(self.square.to(device), eva, dino, photo)

    def image(self, index: int) -> Pixels:
        """Returns the tensors of one image."""
        rows = slice(index, index + 1)
        eva = None if self.eva is None else self.eva[rows]
        dino = None if self.dino is None else self.dino[rows]
        return Pixels(self.square[rows], eva, dino, self.photo[rows])


@dataclass(frozen=True)
class ImageFeatures:
    """Encoder outputs of M images.

    Attributes:
        global_tokens: (M, T_g, D_g) EVA tokens after the final norm.
        semantic_tokens: (M, T_s, D_s) DINO patch tokens.
        mask: the mask decoder's input.
        photo: empty, or the photo trunk's maps at strides 4, 8, 16 and 32, each resized to a
            square that covers the whole image: (M, widths[k], P / 4 / 2^k, P / 4 / 2^k) bfloat16.
    """

    global_tokens: Tensor
    semantic_tokens: Tensor
    mask: MaskFeatures
    photo: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.global_tokens)

    @property
    def nbytes(self) -> int:
        """Memory of all tensors in bytes."""
        tokens = (self.global_tokens, self.semantic_tokens)
        tensors = (*tokens, self.mask.embedding, *self.mask.fine, *self.photo)
        return sum(t.numel() * t.element_size() for t in tensors)

    def image(self, index: int) -> ImageFeatures:
        """Returns copies of the features of one image, so that the batch can be freed."""
        return ImageFeatures(
            self.global_tokens[index : index + 1].clone(),
            self.semantic_tokens[index : index + 1].clone(),
            MaskFeatures(
                self.mask.embedding[index : index + 1].clone(),
                tuple(fine[index : index + 1].clone() for fine in self.mask.fine),
            ),
            tuple(level[index : index + 1].clone() for level in self.photo),
        )


def concatenate(items: Sequence[ImageFeatures]) -> ImageFeatures:
    """Stacks features of single images in order; a single item is returned as it is."""
    if len(items) == 1:
        return items[0]
    fine = tuple(torch.cat([f.mask.fine[i] for f in items]) for i in range(len(items[0].mask.fine)))
    return ImageFeatures(
        torch.cat([f.global_tokens for f in items]),
        torch.cat([f.semantic_tokens for f in items]),
        MaskFeatures(torch.cat([f.mask.embedding for f in items]), fine),
        tuple(torch.cat(maps) for maps in zip(*(f.photo for f in items), strict=True)),
    )


def as_grid(tokens: Tensor) -> Tensor:
    """Arranges (M, T, D) tokens, after a class token or without one, as a map (M, D, g, g)."""
    side = int(tokens.shape[1] ** 0.5)
    return tokens[:, -side * side :].transpose(1, 2).reshape(len(tokens), -1, side, side)


class FeatureCache:
    """Least-recently-used features in memory under a byte ceiling; safe for threads."""

    def __init__(self, max_bytes: int) -> None:
        self._items: LRUCache[str, ImageFeatures] = LRUCache(
            max_bytes, getsizeof=lambda features: features.nbytes
        )
        self._lock = threading.Lock()  # guards _items
        self.hits = 0
        self.misses = 0

    def get(self, key: str) -> ImageFeatures | None:
        """Returns the features stored under a content hash, or None."""
        with self._lock:
            features = self._items.get(key)
            if features is None:
                self.misses += 1
            else:
                self.hits += 1
            return features

    def touch(self, keys: Sequence[str]) -> None:
        """Marks features as recently used without returning them."""
        with self._lock:
            for key in keys:
                self._items.get(key)

    def put(self, key: str, features: ImageFeatures) -> None:
        """Stores features and drops the least recently used until they fit.

        Features larger than the whole cache are not stored.
        """
        if features.nbytes > self._items.maxsize:
            return
        with self._lock:
            if key not in self._items:
                self._items[key] = features
