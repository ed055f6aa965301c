"""What all segmenters of clicks and boxes share: prompts as tensors, and masks from their logits.

A subclass embeds an image and decodes a prompt with one class of `transformers`. The encoder runs
once per image; a prompt runs the small mask decoder alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calico_model.errors import CheckpointError, InvalidMaskError
from calico_model.inference.prompt import MaskPrompt
from calico_model.sources.frames import Frame, Normalisation
from calico_model.sources.hub_folder import HubFolder
from calico_model.sources.source import Encoding, SourceDescription, SourceMask
from calico_model.types import RgbImage


@dataclass(frozen=True, eq=False)
class PromptTensors:
    """A prompt in pixels of the segmenter's square.

    Attributes:
        points: (1, 1, n, 2) float32 x, y, or None.
        labels: (1, 1, n) int64, 1 for a positive click and 0 for a negative one, or None.
        boxes: (1, 1, 4) float32 x0, y0, x1, y1, or None.
        masks: (1, 1, cells, cells) float32 logits of the earlier mask, or None.
        wants_several: whether masks of several sizes are wanted.
    """

    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None
    masks: Tensor | None
    wants_several: bool

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments that every class of `transformers` takes for prompts."""
        return {
            "input_points": self.points,
            "input_labels": self.labels,
            "input_boxes": self.boxes,
            "input_masks": self.masks,
            "multimask_output": self.wants_several,
        }


class PromptedSegmenter(ABC):
    """A `PromptSource` made of a class of `transformers`.

    Args:
        description: of the source.
        frame: the square that the network sees.
        mask_cells: side of the earlier mask that the network reads, in cells.
        device: where the network is.
    """

    def __init__(
        self, description: SourceDescription, frame: Frame, mask_cells: int, device: str
    ) -> None:
        self._description, self._frame = description, frame
        self._mask_cells, self._device = mask_cells, device

    @abstractmethod
    def _embed(self, pixels: Tensor) -> Sequence[Tensor]:
        """Returns what the decoder needs of a (1, 3, side, side) image."""

    @abstractmethod
    def _decode(self, embedded: Sequence[Tensor], prompt: PromptTensors) -> tuple[Tensor, Tensor]:
        """Returns (n, h, w) logits of masks in the square, and their (n,) predicted IoU."""

    def describe(self) -> SourceDescription:
        """Returns what the source is."""
        return self._description

    @torch.no_grad()
    def encode(self, image: RgbImage) -> Encoding:
        """Encodes an (H, W, 3) uint8 image."""
        embedded = tuple(self._embed(self._frame.pixels(image).to(self._device)))
        size = sum(tensor.nbytes for tensor in embedded)
        return Encoding((image.shape[0], image.shape[1]), embedded, size)

    @torch.no_grad()
    def segment_prompt(self, encoding: Encoding, prompt: MaskPrompt) -> Sequence[SourceMask]:
        """Outlines what clicks, a box and an earlier mask mean.

        A lone click may mean a thing or its part: it is answered with several masks.

        Raises:
            InvalidMaskError: the earlier mask has another size than the image.
        """
        logits, scores = self.logits(encoding, prompt)
        order = torch.argsort(scores, descending=True, stable=True).tolist()
        masks = (logits > 0).cpu().numpy()
        return tuple(SourceMask(masks[i], float(scores[i].clamp(0, 1))) for i in order)

    @torch.no_grad()
    def logits(self, encoding: Encoding, prompt: MaskPrompt) -> tuple[Tensor, Tensor]:
        """Returns (n, H, W) logits in pixels of the image and (n,) predicted IoU, unsorted.

        Raises:
            InvalidMaskError: the earlier mask has another size than the image.
        """
        low_res, scores = self._decode(encoding.state, self._tensors(encoding.size_hw, prompt))
        return self._frame.to_image(low_res, encoding.size_hw), scores

    def _tensors(self, size_hw: tuple[int, int], prompt: MaskPrompt) -> PromptTensors:
        if prompt.previous is not None and prompt.previous.shape != size_hw:
            raise InvalidMaskError(
                f"prompt.previous: expected {size_hw}, got {prompt.previous.shape}"
            )
        clicks, points, labels, boxes, masks = prompt.clicks, None, None, None, None
        if clicks:
            positions = torch.tensor([[click.x, click.y] for click in clicks])
            points = self._frame.points(positions, size_hw)[None, None].to(self._device)
            labels = torch.tensor([[[int(c.is_positive) for c in clicks]]], device=self._device)
        if prompt.box is not None:
            corners = torch.tensor(prompt.box).reshape(2, 2)
            boxes = self._frame.points(corners, size_hw).reshape(1, 1, 4).to(self._device)
        if prompt.previous is not None:
            masks = self._frame.mask_input(prompt.previous, self._mask_cells).to(self._device)
        wants_several = prompt.is_ambiguous and prompt.box is None
        return PromptTensors(points, labels, boxes, masks, wants_several)


def read_normalisation(folder: HubFolder, otherwise: Normalisation) -> Normalisation:
    """Returns the mean and deviation that a folder states, else those of its class.

    Raises:
        CheckpointError: they are not three numbers each, or a deviation is not above 0.
    """
    mean, deviation = folder.processor.get("image_mean"), folder.processor.get("image_std")
    if mean is None or deviation is None:
        return otherwise
    try:
        red, green, blue = (float(value) for value in mean)
        red_std, green_std, blue_std = (float(value) for value in deviation)
        is_usable = min(red_std, green_std, blue_std) > 0 and all(
            map(math.isfinite, (red, green, blue, red_std, green_std, blue_std))
        )
    except (TypeError, ValueError):
        is_usable = False
    if not is_usable:
        raise CheckpointError(
            f"{folder.path}: expected image_mean and image_std of three numbers each, the latter "
            f"above 0, got {mean!r} and {deviation!r}"
        )
    return Normalisation((red, green, blue), (red_std, green_std, blue_std))


def count_parameters(model: torch.nn.Module) -> int:
    """Returns the number of parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())
