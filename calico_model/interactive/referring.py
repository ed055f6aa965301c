"""Things asked for by name, outlined on every image: the name is put in the model's mouth.

A forced answer ("Shared parts: <p> the handle </p> [SEG] (IMAGE1) [SEG] (IMAGE2)") draws a mask on
every image, also where there is nothing to draw. Whether it is there is said by the same evidence
as of any region: the IoU head, how sure the mask is inside, and how likely the name is at its
place in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calico_model import prompts
from calico_model.inference.answers import draw_each
from calico_model.inference.confidence import Confidence
from calico_model.inference.segments import sizes_of
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.types import AnswerPhrase, PartMask, RegionKind, RgbImage
from calico_model.vocabulary import normalise

PRESENCE = Confidence(iou=0.59, mask=14.6, phrase=0.64, bias=4.27)
"""Chance that what was asked for is there; fitted on forced answers of calico-tiny, 5-fold."""
IS_THERE = 0.5
_SOMETHING = "object"


@dataclass(frozen=True, eq=False)
class Reference:
    """One thing asked for, on the images of a group.

    Attributes:
        label: as it was asked for.
        parts: where it is there, in image order; the score is the chance that it is.
        absent: images it was looked for and not found on, rising.
    """

    label: str
    parts: tuple[PartMask, ...]
    absent: tuple[int, ...]


def refer(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    images: Sequence[RgbImage],
    label: str,
    objects: Sequence[Phrase],
) -> Reference:
    """Outlines a named thing wherever it is.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model, and of the adapter it wears.
        features: of the group's images.
        images: (H_i, W_i, 3) uint8, the group's pixels.
        label: what to look for; need not be a name the model knows.
        objects: what the images show, from `shown_objects`; it is looked for on their images.
    """
    shown = tuple(sorted({image for phrase in objects for image in phrase.images}))
    name = prompts.clean_label(label)
    everywhere, first = Phrase(name, shown, False), Phrase(name, shown[:1], False)
    whole = Phrase(name, shown, True)
    answers = (
        (RegionKind.COMMON_OBJECT, prompts.write_answer(RegionKind.COMMON_OBJECT, [whole], ())),
        *(
            (kind, prompts.write_answer(kind, objects, [phrase]))
            for kind, phrase in (
                (RegionKind.COMMON_PART, everywhere),
                (RegionKind.UNIQUE_PART, first),
            )
        ),
    )
    as_object, as_part, as_own = draw_each(
        model, tokenizer, features, sizes_of(images), answers, images=images
    )
    likely = [_likely(parts) for parts in (as_object, as_part, as_own)]
    is_object = likely[0] > max(likely[1:])
    drawn = as_object if is_object else as_part
    judged = [_judged(part, label, max(likely)) for part in drawn]
    there = [part for part in judged if part.score >= IS_THERE and part.mask.any()]
    kind = _kind(is_object, len(there), len(features))
    part_id = None if kind is RegionKind.UNIQUE_PART else f"{kind.value}:{label}"
    found = {part.image_index: replace(part, kind=kind, part_id=part_id) for part in there}
    absent = tuple(image for image in shown if image not in found)
    return Reference(label, tuple(found[image] for image in sorted(found)), absent)


def shown_objects(
    phrases: Sequence[AnswerPhrase], images: int, *, owner: str | None = None
) -> tuple[Phrase, ...]:
    """Returns what each image shows, as the model says it or the annotator.

    Args:
        phrases: of the model's own answers, see `GroupPrediction.phrases`.
        images: of the group.
        owner: what the annotator says, in normal form: leaves the images where the model says so,
            or all of them by that name when it says so nowhere.
    """
    named: dict[int, str] = {}
    for kind in (RegionKind.UNIQUE_PART, RegionKind.COMMON_PART):
        named |= {
            image: phrase.label
            for phrase in phrases
            if phrase.kind is kind and phrase.is_object and phrase.label
            for image in phrase.images
        }
    shown = [named.get(image, _SOMETHING) for image in range(images)]
    if owner is not None:
        own = [image for image, label in enumerate(shown) if normalise(label) == owner]
        return (Phrase(owner, tuple(own or range(images)), True),)
    return tuple(
        Phrase(label, tuple(i for i, other in enumerate(shown) if other == label), True)
        for label in dict.fromkeys(shown)
    )


def _likely(parts: Sequence[PartMask]) -> float:
    """How likely the name is in one answer; all its regions have the same name."""
    return max((part.evidence.phrase for part in parts if part.evidence is not None), default=0.0)


def _judged(part: PartMask, label: str, likely: float) -> PartMask:
    assert part.evidence is not None
    evidence = replace(part.evidence, phrase=likely)
    return replace(part, label=label, evidence=evidence, score=PRESENCE.score(evidence))


def _kind(is_object: bool, found: int, images: int) -> RegionKind:
    """What a thing is to its group, by where it was found."""
    if is_object:
        return RegionKind.COMMON_OBJECT
    return RegionKind.UNIQUE_PART if found == 1 < images else RegionKind.COMMON_PART
