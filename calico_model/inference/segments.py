"""[SEG] tokens of answers: from the text around them to the regions they stand for.

Legend: D width of a hidden state, L logit side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calico_model.inference.detection_odds import EdgeEvidence, chance_with_edges
from calico_model.inference.mask_refinement import draw_outlines
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.language import Generated
from calico_model.modeling.model import Calico
from calico_model.prompts import ParsedAnswer
from calico_model.tokenizer import Tokenizer
from calico_model.types import BoolMask, MaskEvidence, PartMask, RegionKind, RgbImage

SizesHw = Sequence[tuple[int, int]]


def sizes_of(images: Sequence[RgbImage]) -> SizesHw:
    """Returns (height, width) in pixels of each image."""
    return [(image.shape[0], image.shape[1]) for image in images]


@dataclass(frozen=True)
class Segment:
    """One region of an answer, before its mask is drawn.

    Attributes:
        kind, label, image: of the region.
        object_label: name of the compared object of that image, or None.
        state: (D,) hidden state before the [SEG]; None for a region of the dense head alone.
        certainty: mean probability of the phrase's tokens, in [0, 1].
        logits: (L, L) mask of the dense head, which needs no mask decoder; else None.
        mask: (H, W) bool mask of the dense head, sharpened on the image; else None.
        chance: chance that the region is right, where it is known; else None. It does not know
            `edges`.
        edges: what MobileSAM says about the mask of a region of a photograph, else None.
    """

    kind: RegionKind
    label: str
    image: int
    object_label: str | None
    state: Tensor | None
    certainty: float
    logits: Tensor | None = None
    mask: BoolMask | None = None
    chance: float | None = None
    edges: EdgeEvidence | None = None

    @property
    def score(self) -> float | None:
        """Chance that the region is right by all that is known; None where it is not known."""
        if self.chance is None or self.edges is None:
            return self.chance
        is_object = self.kind is RegionKind.COMMON_OBJECT
        return chance_with_edges(self.chance, self.edges, is_object=is_object)


def segments_of(
    kind: RegionKind,
    parsed: ParsedAnswer,
    states: Tensor,
    chances: Sequence[float],
    images: int,
) -> list[Segment]:
    """Returns the regions of one answer: objects of the object question, else parts.

    Args:
        kind: the question that is answered.
        parsed: the answer.
        states: (K, D) hidden state before each [SEG].
        chances: per [SEG], mean probability of its phrase's tokens.
        images: number of images of the conversation; regions of other images are left out.
    """
    object_of = {k: p.label for p in parsed.phrases if p.is_object for k in p.images}
    wants_objects = kind is RegionKind.COMMON_OBJECT
    segments: list[Segment] = []
    if parsed.segments != len(states):
        # The model spelled a tag letter by letter: which phrase each [SEG] belongs to is unknown.
        return segments
    for phrase, first in zip(parsed.phrases, parsed.first_segments, strict=True):
        if phrase.is_object != wants_objects or not phrase.label:
            continue
        for offset, image in enumerate(phrase.images):
            if 0 <= image < images:
                owner = None if wants_objects else object_of.get(image)
                row = first + offset
                segments.append(
                    Segment(kind, phrase.label, image, owner, states[row], chances[row])
                )
    return segments


def certainties(answers: Generated, row: int, tokenizer: Tokenizer) -> list[float]:
    """Returns per [SEG] of an answer the mean token probability of its `<p> ... </p>`."""
    certainty = 1.0
    inside: list[float] = []
    by_segment: list[float] = []
    for token, chance in zip(answers.ids[row], answers.probabilities[row], strict=True):
        if token == tokenizer.phrase_start:
            inside = []
        elif token == tokenizer.phrase_end:
            certainty = sum(inside) / len(inside) if inside else 1.0
        elif token == tokenizer.seg:
            by_segment.append(certainty)
        else:
            inside.append(chance)
    return by_segment


def decode_segments(
    model: Calico,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    segments: Sequence[Segment],
    images: Sequence[RgbImage] | None = None,
) -> tuple[PartMask, ...]:
    """Draws the mask of every region. The order stays, and regions of empty masks stay, too.

    Args:
        model: in evaluation mode, on the device of the features.
        features: of the group's images.
        sizes_hw: (height, width) in pixels of each image.
        segments: regions to draw.
        images: the group's pixels, on which a model with a refiner sharpens its masks; None leaves
            the masks as they are.
    """
    if not segments:
        return ()
    where = [segment.image for segment in segments]
    logits, qualities = _decode(model, features, segments)
    undrawn = [n for n, segment in enumerate(segments) if segment.mask is None]
    outlines = draw_outlines(
        model,
        features,
        sizes_hw,
        [where[n] for n in undrawn],
        [logits[n] for n in undrawn],
        images,
    )
    drawn = dict(zip(undrawn, outlines, strict=True))
    masks = [
        drawn[n] if segment.mask is None else segment.mask for n, segment in enumerate(segments)
    ]
    parts: list[PartMask] = []
    for segment, mask, mask_logits, iou_hat in zip(segments, masks, logits, qualities, strict=True):
        is_shared = segment.kind is not RegionKind.UNIQUE_PART
        score, evidence = segment.score, None
        if score is None:
            score = iou_hat * segment.certainty
            evidence = MaskEvidence(iou_hat, _mask_score(mask_logits), segment.certainty)
        parts.append(
            PartMask(
                image_index=segment.image,
                kind=segment.kind,
                label=segment.label,
                mask=mask,
                object_label=segment.object_label,
                part_id=f"{segment.kind.value}:{segment.label}" if is_shared else None,
                score=score,
                evidence=evidence,
            )
        )
    return tuple(parts)


def _decode(
    model: Calico, features: ImageFeatures, segments: Sequence[Segment]
) -> tuple[list[Tensor], list[float]]:
    """Logits (L, L) and predicted IoU of each region; `_mask_score` for masks of the dense head."""
    undecoded = [(n, segment.state) for n, segment in enumerate(segments) if segment.logits is None]
    logits = [segment.logits for segment in segments]
    qualities = [0.0 if mask is None else _mask_score(mask) for mask in logits]
    if undecoded:
        states = torch.stack([state for _, state in undecoded if state is not None])
        image = torch.tensor([segments[n].image for n, _ in undecoded], device=states.device)
        decoded, iou = model.segment(features, states, image)
        for (n, _), mask, quality in zip(undecoded, decoded, iou, strict=True):
            logits[n], qualities[n] = mask, float(quality.clamp(0.0, 1.0))
    return [mask for mask in logits if mask is not None], qualities


def _mask_score(logits: Tensor) -> float:
    """Mean foreground probability inside a mask of (L, L) logits, 0 for an empty mask (PixelLM)."""
    inside = logits[logits > 0]
    return float(inside.sigmoid().mean()) if inside.numel() else 0.0
