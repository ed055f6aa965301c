"""Grounding DINO (IDEA, 2023): names -> boxes, by the classes of transformers.

Names are asked together, as one text "a. b."; a box belongs to the name whose tokens it matches
best. Image and text are fused early, so that only the pixels of an image are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from calico_model.sources.detection import Detection, inside
from calico_model.sources.hub_folder import (
    HubFolder,
    load_image_processor,
    load_model,
    load_tokenizer,
)
from calico_model.sources.prompted import count_parameters
from calico_model.types import RgbImage


class GroundingDinoDetector:
    """`GroundingDinoForObjectDetection` as a detector.

    Args:
        model: of transformers.
        tokenizer: of transformers, BERT's, with offsets.
        image_processor: of transformers, the one that does without torchvision.
        threshold: lowest score of a box, in [0, 1].
        text_threshold: lowest match with a name, in [0, 1].
        device: where the model runs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        *,
        threshold: float = 0.3,
        text_threshold: float = 0.25,
        device: str = "cpu",
    ) -> None:
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer, self._image_processor = tokenizer, image_processor
        self._threshold, self._text_threshold = threshold, text_threshold
        self._device = device

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return count_parameters(self._model)

    def encode(self, image: RgbImage) -> tuple[Any, int]:
        """Scales an image as the model wants it."""
        pixels = self._image_processor(images=[image], return_tensors="pt")
        state = (pixels["pixel_values"], pixels["pixel_mask"])
        return state, sum(tensor.numel() * tensor.element_size() for tensor in state)

    def detect(
        self, state: Any, size_hw: tuple[int, int], names: Sequence[str]
    ) -> Sequence[Detection]:
        """Returns the boxes of all names, best first."""
        found = [
            detection
            for asked in self._texts(names)
            for detection in self._detect(state, size_hw, asked)
        ]
        return sorted(found, key=lambda detection: -detection.score)

    def _texts(self, names: Sequence[str]) -> list[list[str]]:
        """Splits names into texts that the model reads whole."""
        most = self._model.config.max_text_len
        texts: list[list[str]] = []
        for name in dict.fromkeys(names):
            if texts and len(self._tokenizer(as_text([*texts[-1], name]))["input_ids"]) <= most:
                texts[-1].append(name)
            else:
                texts.append([name])
        return texts

    @torch.inference_mode()
    def _detect(
        self, state: Any, size_hw: tuple[int, int], names: Sequence[str]
    ) -> list[Detection]:
        tokens = self._tokenizer(
            as_text(names),
            return_tensors="pt",
            return_token_type_ids=True,
            return_offsets_mapping=True,
            truncation=True,
            max_length=self._model.config.max_text_len,
        )
        offsets = tokens.pop("offset_mapping")[0]
        pixel_values, pixel_mask = state
        answer = self._model(
            pixel_values=pixel_values.to(self._device, self._model.dtype),
            pixel_mask=pixel_mask.to(self._device),
            **tokens.to(self._device),
        )
        chances = answer.logits[0].float().sigmoid().cpu()  # (queries, text length)
        scores = chances.max(-1).values
        spans = token_spans(names, offsets)
        matches = torch.stack(
            [
                chances[:, span].max(-1).values if span else chances.new_zeros(len(chances))
                for span in spans
            ],
            dim=-1,
        )
        best = matches.max(-1)
        height, width = size_hw
        centre, size = answer.pred_boxes[0].float().cpu().split(2, dim=-1)
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
        corners = corners * torch.tensor([width, height, width, height])
        kept = (scores > self._threshold) & (best.values > self._text_threshold)
        found = []
        for query in kept.nonzero()[:, 0].tolist():
            box = inside(corners[query].numpy(), size_hw)
            if box is not None:
                name = names[int(best.indices[query])]
                found.append(Detection(box, float(scores[query]), name))
        return found


def as_text(names: Sequence[str]) -> str:
    """Returns names as the text of the model: lower case, each ended by a full stop."""
    return " ".join(f"{_words(name)}." for name in names)


def token_spans(names: Sequence[str], offsets: Tensor) -> list[list[int]]:
    """Returns the numbers of the tokens of every name.

    Args:
        names: as given to `as_text`.
        offsets: (L, 2) first and last character + 1 of every token; equal for special tokens.
    """
    spans, start = [], 0
    for name in names:
        end = start + len(_words(name))
        spans.append(
            [
                number
                for number, (first, last) in enumerate(offsets.tolist())
                if first < last and start <= first and last <= end
            ]
        )
        start = end + 2  # ". "
    return spans


def _words(name: str) -> str:
    """A full stop or a question mark would end the name."""
    return re.sub(r"[.?\s]+", " ", name).strip().lower()


def load_grounding_dino(folder: HubFolder, device: str) -> GroundingDinoDetector:
    """Reads Grounding DINO from a folder of the hub.

    Raises:
        CheckpointError: the folder holds something else, or lacks tensors or files.
    """
    from transformers import GroundingDinoForObjectDetection, GroundingDinoImageProcessorPil

    return GroundingDinoDetector(
        load_model(GroundingDinoForObjectDetection, folder, device),
        load_tokenizer(folder),
        load_image_processor(GroundingDinoImageProcessorPil, folder),
        device=device,
    )
