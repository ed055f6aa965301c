"""What goes into the network: pixels of images and tokenised conversations about them.

Legend: M images in the pool, B conversations, R image slots, T positions, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """The streams of M images; a model with a trunk needs neither `eva` nor `dino`.

    Attributes:
        square: (M, 3, S, S) SAM-normalised, longest side scaled to S, zero padded.
        eva: (M, 3, E, E) CLIP-normalised, or None.
        dino: (M, 3, F, F) ImageNet-normalised, or None.
        photo: M images (3, h_i, w_i) for the photo trunk, 0-255, sides multiples of 32; or empty.
    """

    square: Tensor
    eva: Tensor | None = None
    dino: Tensor | None = None
    photo: tuple[Tensor, ...] = ()

    def to(self, device: str | torch.device) -> Pixels:
        """Moves all streams."""
        eva = None if self.eva is None else self.eva.to(device)
        dino = None if self.dino is None else self.dino.to(device)
        photo = tuple(image.to(device) for image in self.photo)
        return Pixels(self.square.to(device), eva, dino, photo)

    def image(self, index: int) -> Pixels:
        """Returns the streams of one image."""
        rows = slice(index, index + 1)
        eva = None if self.eva is None else self.eva[rows]
        dino = None if self.dino is None else self.dino[rows]
        return Pixels(self.square[rows], eva, dino, self.photo[rows])


@dataclass(frozen=True)
class Conversations:
    """B tokenised conversations over a pool of M images.

    Attributes:
        input_ids: (B, T) int64; each image is Q image tokens.
        is_token: (B, T) bool, False at padding.
        guidance: (B,) position of the last prompt token.
        image_row, image_column: (R,) conversation and first position of each slot.
        image_feature: (R,) which of the M images fills the slot.
    """

    input_ids: Tensor
    is_token: Tensor
    guidance: Tensor
    image_row: Tensor
    image_column: Tensor
    image_feature: Tensor

    def to(self, device: str | torch.device) -> Conversations:
        """Moves all tensors."""
        return Conversations(
            self.input_ids.to(device),
            self.is_token.to(device),
            self.guidance.to(device),
            self.image_row.to(device),
            self.image_column.to(device),
            self.image_feature.to(device),
        )
