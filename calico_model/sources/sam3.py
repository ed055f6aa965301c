"""SAM 3 and SAM 3 LiteText (Meta, 2025): a noun phrase or an exemplar -> all its instances.

The classes of transformers. An exemplar of another image is what their geometry encoder reads from
that image, handed to the detector with the text's tokens. Legend: Q queries, L text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import torch
from cachetools import LRUCache
from torch import Tensor
from torch.nn import functional

from calico_model.errors import InvalidMaskError
from calico_model.masks import extent_of
from calico_model.sources.frames import Normalisation, StretchedFrame
from calico_model.sources.hub_folder import HubFolder, load_model, load_tokenizer
from calico_model.sources.prompted import count_parameters
from calico_model.sources.source import Ability, Encoding, SourceDescription, SourceMask
from calico_model.types import BoolMask, RgbImage

_TEXT_TOKENS = 32  # what transformers' processor pads a name to
_EXEMPLAR_TEXT = "visual"  # the name that its processor gives to a box without one
_KEPT_NAMES = 512
_NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, eq=False)
class _TextTokens:
    """Tokens that the detector attends to: values (1, L, C), mask (1, L)."""

    values: Tensor
    mask: Tensor


class Sam3Source:
    """`Sam3Model` or `Sam3LiteTextModel` as a source of masks by name or exemplar.

    Args:
        model: of transformers.
        tokenizer: of transformers, CLIP's.
        description: name, licence and hash of the weights.
        threshold: lowest score of an instance, in [0, 1].
        device: where the model runs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        description: SourceDescription,
        *,
        threshold: float = 0.5,
        device: str = "cpu",
    ) -> None:
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer, self._description = tokenizer, description
        self._threshold, self._device = threshold, device
        self._names: LRUCache[str, _TextTokens] = LRUCache(_KEPT_NAMES)
        self._positions: tuple[Tensor, ...] | None = None
        encoder = self._model.geometry_encoder
        encoder._encode_boxes = MethodType(_encode_boxes, encoder)  # torchvision may be missing

    def describe(self) -> SourceDescription:
        """Returns what it is: it answers names and exemplars."""
        return self._description

    @torch.inference_mode()
    def encode(self, image: RgbImage) -> Encoding:
        """Encodes an image to the maps of SAM 3's neck; their positions are kept once."""
        vision = self._model.get_vision_features(pixel_values=self._pixels(image))
        if self._positions is None:
            self._positions = tuple(vision.fpn_position_encoding)
        maps = tuple(vision.fpn_hidden_states)
        nbytes = sum(level.numel() * level.element_size() for level in maps)
        return Encoding(image.shape[:2], maps, nbytes)

    @torch.inference_mode()
    def segment_names(self, encoding: Encoding, names: Sequence[str]) -> Sequence[SourceMask]:
        """Returns all instances of every name, best first per name."""
        return [
            mask
            for name in names
            for mask in self._instances(encoding, self._text_tokens(name), label=name)
        ]

    @torch.inference_mode()
    def segment_alike(
        self, encoding: Encoding, exemplar: Encoding, mask: BoolMask
    ) -> Sequence[SourceMask]:
        """Returns the instances of what the box around a mask of another image shows.

        Raises:
            InvalidMaskError: the mask is empty or has another size than its image.
        """
        text = self._text_tokens(_EXEMPLAR_TEXT)
        box = self._box_tokens(exemplar, mask)
        both = _TextTokens(
            torch.cat([text.values, box.values], dim=1), torch.cat([text.mask, box.mask], dim=1)
        )
        return self._instances(encoding, both, label=None)

    def _pixels(self, image: RgbImage) -> Tensor:
        """(1, 3, S, S): stretched to SAM 3's square, values in [-1, 1]."""
        frame = StretchedFrame(self._model.config.image_size, _NORMALISATION)
        return frame.pixels(image).to(self._device, self._model.dtype)

    def _text_tokens(self, name: str) -> _TextTokens:
        tokens = self._names.get(name)
        if tokens is None:
            batch = self._tokenizer(
                [name],
                return_tensors="pt",
                padding="max_length",
                max_length=_TEXT_TOKENS,
                truncation=True,
            ).to(self._device)
            mask = batch["attention_mask"]
            text = self._model.get_text_features(input_ids=batch["input_ids"], attention_mask=mask)
            tokens = self._names[name] = _TextTokens(text.pooler_output, mask.bool())
        return tokens

    def _box_tokens(self, exemplar: Encoding, mask: BoolMask) -> _TextTokens:
        """What the geometry encoder reads in the box around a mask."""
        box = torch.tensor([[_relative_box(mask, exemplar.size_hw)]], device=self._device)
        ones = torch.ones(1, 1, dtype=torch.long, device=self._device)
        assert self._positions is not None
        read = self._model.geometry_encoder(
            box_embeddings=box.to(self._model.dtype),
            box_mask=ones.bool(),
            box_labels=ones,
            img_feats=exemplar.state[:-1],
            img_pos_embeds=self._positions[:-1],
        )
        return _TextTokens(read.last_hidden_state, read.attention_mask)

    def _instances(
        self, encoding: Encoding, tokens: _TextTokens, *, label: str | None
    ) -> list[SourceMask]:
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

        answer = self._model(
            vision_embeds=Sam3VisionEncoderOutput(
                fpn_hidden_states=encoding.state, fpn_position_encoding=self._positions
            ),
            text_embeds=BaseModelOutputWithPooling(pooler_output=tokens.values),
            attention_mask=tokens.mask,
        )
        scores = (answer.pred_logits.sigmoid() * answer.presence_logits.sigmoid())[0].float()
        masks = []
        for query in scores.argsort(descending=True).tolist():
            score = float(scores[query])
            if score <= self._threshold:
                break
            chance = functional.interpolate(
                answer.pred_masks[:, query : query + 1].float().sigmoid(),
                size=encoding.size_hw,
                mode="bilinear",
                align_corners=False,
            )
            mask = cast(BoolMask, (chance[0, 0] > 0.5).cpu().numpy())
            if mask.any():
                masks.append(SourceMask(mask, score, label))
        return masks


def _relative_box(mask: BoolMask, size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Returns the box around a mask as shares of the image: centre x, centre y, width, height."""
    extent = extent_of(mask)
    if mask.shape != size_hw or extent is None:
        raise InvalidMaskError(
            f"exemplar: expected a mask of {size_hw} that is not empty, got one of {mask.shape}"
        )
    height, width = size_hw
    x0, x1 = extent[0] / width, extent[2] / width
    y0, y1 = extent[1] / height, extent[3] / height
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


def _encode_boxes(
    encoder: Any, boxes: Tensor, boxes_mask: Tensor, boxes_labels: Tensor, vision_features: Tensor
) -> tuple[Tensor, Tensor]:
    """Embeds boxes as `Sam3GeometryEncoder._encode_boxes` does, with our `roi_align`.

    Args:
        encoder: the geometry encoder.
        boxes: (B, n, 4) centre x, centre y, width, height in [0, 1].
        boxes_mask: (B, n) bool, False for padding.
        boxes_labels: (B, n) 1 for an example, 0 for a counterexample.
        vision_features: (B, C, H, W).

    Returns:
        (B, n, C) tokens and the mask.
    """
    height, width = vision_features.shape[-2:]
    x, y, box_width, box_height = boxes.unbind(-1)
    corners = torch.stack(
        [
            (x - box_width / 2) * width,
            (y - box_height / 2) * height,
            (x + box_width / 2) * width,
            (y + box_height / 2) * height,
        ],
        dim=-1,
    )
    pooled = encoder.boxes_pool_project(
        roi_align(vision_features, corners.unbind(0), encoder.roi_size)
    )
    places = encoder._encode_box_coordinates(
        x.flatten(), y.flatten(), box_width.flatten(), box_height.flatten()
    )
    tokens = encoder.boxes_direct_project(boxes) + pooled.view(*boxes.shape[:2], -1)
    tokens = tokens + encoder.boxes_pos_enc_project(places.view(*boxes.shape[:2], -1))
    return encoder.label_embed(boxes_labels.long()) + tokens, boxes_mask


def open_sam3(name: str, folder: HubFolder, licence: str, device: str) -> Sam3Source:
    """Reads SAM 3 or SAM 3 LiteText from a folder of the hub; a folder of its video model will do.

    Raises:
        CheckpointError: the folder holds neither, or lacks tensors or the tokenizer.
    """
    from transformers import Sam3Config, Sam3LiteTextModel, Sam3Model

    config = None
    if (detector := folder.config.get("detector_config")) is not None:
        config = Sam3Config(**detector)  # the video model keeps the image model's inside its own
    kind: Any = Sam3LiteTextModel if folder.model_type == "sam3_lite_text" else Sam3Model
    model: Any = load_model(kind, folder, device, config=config)
    about = SourceDescription(
        name,
        frozenset({Ability.TEXT, Ability.EXEMPLAR}),
        folder.digest(),
        licence,
        count_parameters(model),
    )
    return Sam3Source(model, load_tokenizer(folder), about, device=device)


def roi_align(features: Tensor, boxes: Sequence[Tensor], bins: int) -> Tensor:
    """Pools boxes of feature maps by averages; `aligned=False`, `sampling_ratio=-1` of torchvision.

    torchvision is not needed: a box is two small matrices, because bilinear sampling of a grid is
    separable.

    Args:
        features: (B, C, H, W) float.
        boxes: B tensors (n_b, 4), x0, y0, x1, y1 in cells.
        bins: side of the pooled grid.

    Returns:
        (sum of n_b, C, bins, bins), the boxes of the first map first.
    """
    height, width = features.shape[-2:]
    pooled = [
        torch.einsum(
            "ph,chw,qw->cpq",
            _axis_weights(y0, y1, height, bins).to(features),
            feature_map,
            _axis_weights(x0, x1, width, bins).to(features),
        )
        for feature_map, of_image in zip(features, boxes, strict=True)
        for x0, y0, x1, y1 in of_image.tolist()
    ]
    return torch.stack(pooled) if pooled else features.new_zeros(0, features.shape[1], bins, bins)


def _axis_weights(start: float, end: float, cells: int, bins: int) -> Tensor:
    """(bins, cells): what every cell of one axis contributes to every bin."""
    length = max(end - start, 1.0)
    samples = max(1, math.ceil(length / bins))  # per bin
    position = start + (torch.arange(bins * samples, dtype=torch.float64) + 0.5) * (
        length / bins / samples
    )
    is_inside = (position >= -1.0) & (position <= cells)
    position = position.clamp(0, cells - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=cells - 1)
    weights = torch.zeros(bins * samples, cells, dtype=torch.float64)
    rows = torch.arange(bins * samples)
    weights[rows, low] += 1 - (position - low)
    weights[rows, high] += position - low
    weights *= is_inside[:, None]
    return weights.view(bins, samples, cells).mean(1)
