"""[SEG] tokens of answers, between the text they stand in and the regions they become.

Legend: D width of a hidden state, L logit side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """One [SEG] that becomes a region.

    Attributes:
        kind, label, image: of the region.
        object_label: the compared object of that image, or None.
        state: (D,) hidden state before the [SEG]; None if there was none.
        certainty: mean probability of the phrase's tokens.
        logits: (L, L) mask that is known without asking the decoder; else None.
        mask: (H, W) bool that is drawn already, beside `logits`; else None.
        chance: that the region is right, where that is known; else None.
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


def segments_of(
    kind: RegionKind,
    parsed: ParsedAnswer,
    states: Tensor,
    chances: Sequence[float],
    images: int,
) -> list[Segment]:
    """Returns the [SEG] tokens of one answer that are regions: its objects, or else its parts.

    Args:
        kind: which question was answered.
        parsed: the answer.
        states: (K, D) hidden state before each [SEG].
        chances: of each [SEG], mean probability of its phrase's tokens.
        images: how many the conversation has; what is said of others is left out.
    """
    object_of = {k: p.label for p in parsed.phrases if p.is_object for k in p.images}
    wants_objects = kind is RegionKind.COMMON_OBJECT
    found: list[Segment] = []
    if parsed.segments != len(states):
        return found  # a tag spelled letter by letter: nothing says which mask is whose
    for phrase, first in zip(parsed.phrases, parsed.first_segments, strict=True):
        if phrase.is_object != wants_objects or not phrase.label:
            continue
        for offset, image in enumerate(phrase.images):
            if 0 <= image < images:
                owner = None if wants_objects else object_of.get(image)
                at = first + offset
                found.append(Segment(kind, phrase.label, image, owner, states[at], chances[at]))
    return found


def certainties(answers: Generated, row: int, tokenizer: Tokenizer) -> list[float]:
    """Mean token probability of each `<p> ... </p>` of an answer, by its first [SEG]."""
    certainty = 1.0
    inside: list[float] = []
    found: list[float] = []
    for token, chance in zip(answers.ids[row], answers.probabilities[row], strict=True):
        if token == tokenizer.phrase_start:
            inside = []
        elif token == tokenizer.phrase_end:
            certainty = sum(inside) / len(inside) if inside else 1.0
        elif token == tokenizer.seg:
            found.append(certainty)
        else:
            inside.append(chance)
    return found


def decode_segments(
    model: Calico,
    features: ImageFeatures,
    sizes_hw: SizesHw,
    segments: Sequence[Segment],
    images: Sequence[RgbImage] | None = None,
) -> tuple[PartMask, ...]:
    """Draws the mask of every segment, in order; empty masks are kept.

    Args:
        model, features: as asked.
        sizes_hw: (height, width) in pixels of each image.
        segments: what to draw.
        images: the group's pixels, on which a model with a refiner sharpens its masks; None leaves
            them as they are.
    """
    if not segments:
        return ()
    where = [segment.image for segment in segments]
    logits, qualities = _decode(model, features, segments)
    open_ones = [n for n, one in enumerate(segments) if one.mask is None]
    drawn = draw_outlines(
        model,
        features,
        sizes_hw,
        [where[n] for n in open_ones],
        [logits[n] for n in open_ones],
        images,
    )
    outlined = dict(zip(open_ones, drawn, strict=True))
    masks = [outlined[n] if one.mask is None else one.mask for n, one in enumerate(segments)]
    parts: list[PartMask] = []
    for segment, mask, own, iou_hat in zip(segments, masks, logits, qualities, strict=True):
        is_shared = segment.kind is not RegionKind.UNIQUE_PART
        score, evidence = (
            iou_hat * segment.certainty,
            MaskEvidence(iou_hat, _mask_score(own), segment.certainty),
        )
        parts.append(
            PartMask(
                image_index=segment.image,
                kind=segment.kind,
                label=segment.label,
                mask=mask,
                object_label=segment.object_label,
                part_id=f"{segment.kind.value}:{segment.label}" if is_shared else None,
                score=score if segment.chance is None else segment.chance,
                evidence=evidence if segment.chance is None else None,
            )
        )
    return tuple(parts)


def _decode(
    model: Calico, features: ImageFeatures, segments: Sequence[Segment]
) -> tuple[list[Tensor], list[float]]:
    """Logits (L, L) and predicted IoU of each; of a known mask it is how sure it is of itself."""
    said = [(n, one.state) for n, one in enumerate(segments) if one.logits is None]
    logits = [one.logits for one in segments]
    qualities = [0.0 if own is None else _mask_score(own) for own in logits]
    if said:
        states = torch.stack([state for _, state in said if state is not None])
        image = torch.tensor([segments[n].image for n, _ in said], device=states.device)
        drawn, iou = model.segment(features, states, image)
        for (n, _), own, quality in zip(said, drawn, iou, strict=True):
            logits[n], qualities[n] = own, float(quality.clamp(0.0, 1.0))
    return [own for own in logits if own is not None], qualities


def _mask_score(logits: Tensor) -> float:
    """Mean foreground probability inside a mask of (L, L) logits, 0 if it is empty (PixelLM)."""
    inside = logits[logits > 0]
    return float(inside.sigmoid().mean()) if inside.numel() else 0.0
