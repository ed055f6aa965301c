"""OWLv2 (Google, 2023): names or an exemplar -> boxes, by the classes of transformers.

An image is encoded once; a name or an exemplar is a vector that its patches are compared with.
Boxes are shares of the longer side: OWLv2 pads images to squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calico_model.inference.prompt import Box
from calico_model.sources.detection import Detection, box_iou, inside
from calico_model.sources.hub_folder import (
    HubFolder,
    load_image_processor,
    load_model,
    load_tokenizer,
)
from calico_model.sources.prompted import count_parameters
from calico_model.types import RgbImage

_TEMPLATE = "a photo of a {}"
_AS_GOOD = 0.8  # of the best overlap with the exemplar's box


@dataclass(frozen=True, eq=False)
class _OwlPatches:
    """What OWLv2 keeps of an image.

    Attributes:
        features: (1, P, D) one vector per patch.
        corners: (P, 4) box per patch: x0, y0, x1, y1 as shares of the longer side.
        objectness: (P,) how likely the box is one thing.
    """

    features: Tensor
    corners: Tensor
    objectness: Tensor


class Owlv2Detector:
    """`Owlv2ForObjectDetection` as a detector.

    Args:
        model: of transformers.
        tokenizer: of transformers, CLIP's.
        image_processor: of transformers, the one that does without torchvision.
        threshold: lowest score of a box for a name, in [0, 1].
        exemplar_threshold: the same for an exemplar; these scores are higher.
        device: where the model runs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        *,
        threshold: float = 0.2,
        exemplar_threshold: float = 0.9,
        device: str = "cpu",
    ) -> None:
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer, self._image_processor = tokenizer, image_processor
        self._threshold, self._exemplar_threshold = threshold, exemplar_threshold
        self._device = device

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return count_parameters(self._model)

    @torch.inference_mode()
    def encode(self, image: RgbImage) -> tuple[Any, int]:
        """Encodes an image to patches with a box each."""
        pixels = self._image_processor(images=[image], return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self._device, self._model.dtype)
        grid = self._model.image_embedder(pixel_values=pixels)[0]
        features = grid.flatten(1, 2)
        boxes = self._model.box_predictor(features, grid)[0].float()
        centre, size = boxes.split(2, dim=-1)
        state = _OwlPatches(
            features,
            torch.cat([centre - size / 2, centre + size / 2], dim=-1).cpu(),
            self._model.objectness_predictor(features)[0].float().cpu(),
        )
        tensors = (state.features, state.corners, state.objectness)
        return state, sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.inference_mode()
    def detect(
        self, state: Any, size_hw: tuple[int, int], names: Sequence[str]
    ) -> Sequence[Detection]:
        """Returns the boxes of all names, best first; every patch answers its likeliest name."""
        tokens = self._tokenizer(
            [_TEMPLATE.format(name) for name in names],
            return_tensors="pt",
            padding="max_length",
            truncation=True,
        ).to(self._device)
        text = self._model.owlv2.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        scores, indices = self._scores(state, text.pooler_output[None])
        kept = scores > self._threshold
        found = [
            Detection(box, float(scores[patch]), names[int(indices[patch])])
            for patch in kept.nonzero()[:, 0].tolist()
            if (box := _in_pixels(state, patch, size_hw)) is not None
        ]
        return sorted(found, key=lambda detection: -detection.score)

    @torch.inference_mode()
    def detect_alike(
        self, state: Any, size_hw: tuple[int, int], exemplar: Any, box: Box, of_hw: tuple[int, int]
    ) -> Sequence[Detection]:
        """Returns boxes of what a box of another image shows, best first.

        The exemplar is the likeliest thing among the patches whose box fits the given one best.
        """
        longer = max(of_hw)
        share = tuple(value / longer for value in box)
        x0, y0, x1, y1 = share
        overlaps = torch.tensor(
            [box_iou((x0, y0, x1, y1), (a, b, c, d)) for a, b, c, d in exemplar.corners.tolist()]
        )
        fits = overlaps >= _AS_GOOD * overlaps.max()
        patch = int(exemplar.objectness.masked_fill(~fits, float("-inf")).argmax())
        _, classes = self._model.class_predictor(exemplar.features)
        scores, _ = self._scores(state, classes[:, patch : patch + 1])
        kept = scores > self._exemplar_threshold
        found = [
            Detection(there, float(scores[number]))
            for number in kept.nonzero()[:, 0].tolist()
            if (there := _in_pixels(state, number, size_hw)) is not None
        ]
        return sorted(found, key=lambda detection: -detection.score)

    def _scores(self, state: _OwlPatches, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Score and number of the likeliest of (1, n, D) queries, for every patch."""
        logits, _ = self._model.class_predictor(state.features, queries)
        best = logits[0].float().cpu().max(-1)
        return best.values.sigmoid(), best.indices


def _in_pixels(state: _OwlPatches, patch: int, size_hw: tuple[int, int]) -> Box | None:
    return inside(state.corners[patch].numpy() * max(size_hw), size_hw)


def load_owlv2(folder: HubFolder, device: str) -> Owlv2Detector:
    """Reads OWLv2 from a folder of the hub.

    Raises:
        CheckpointError: the folder holds something else, or lacks tensors or files.
    """
    from transformers import Owlv2ForObjectDetection, Owlv2ImageProcessorPil

    return Owlv2Detector(
        load_model(Owlv2ForObjectDetection, folder, device),
        load_tokenizer(folder),
        load_image_processor(Owlv2ImageProcessorPil, folder),
        device=device,
    )
