"""Things that an annotator names, outlined on every image by a teacher-forced answer.

The forced answer ("Shared parts: <p> the handle </p> [SEG] (IMAGE1) [SEG] (IMAGE2)") draws a mask
on every image, also on images without the thing. Whether an image shows it follows from the same
evidence as for any region: the predicted IoU, the mean probability inside the mask, and how likely
the model finds the name at its place in the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from calico_model import prompts
from calico_model.inference.confidence import Confidence
from calico_model.inference.segments import sizes_of
from calico_model.inference.teacher_forcing import UNKNOWN_OBJECT, draw_scored_answers
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.types import AnswerPhrase, PartMask, RegionKind, RgbImage
from calico_model.vocabulary import normalise

PRESENCE = Confidence(iou=0.59, mask=14.6, phrase=0.64, bias=4.27)
"""Chance that a named thing is there; fitted on forced answers of calico-tiny, 5-fold."""
IS_THERE = 0.5


@dataclass(frozen=True, eq=False)
class Reference:
    """One named thing, on the images of a group.

    Attributes:
        label: the name, as it was given.
        parts: its regions, in image order; the score is the chance that the image shows the thing.
        absent: images that were searched and do not show the thing, rising.
        is_known: whether the model knows the name; where it does not, nothing was searched.
        broader: the last word of a name that is not known, if that word is; else None.
    """

    label: str
    parts: tuple[PartMask, ...]
    absent: tuple[int, ...]
    is_known: bool = True
    broader: str | None = None


def find_learned(label: str, predicted: Sequence[PartMask], images: int) -> Reference:
    """Returns where a name is that the dense head knows: what was predicted under it.

    Args:
        label: the name.
        predicted: regions of the group.
        images: of the group.
    """
    parts = tuple(part for part in predicted if normalise(part.label) == normalise(label))
    shown = {part.image_index for part in parts}
    absent = tuple(image for image in range(images) if image not in shown)
    return Reference(label, tuple(replace(part, label=label) for part in parts), absent)


def unknown_name(label: str, knows: Callable[[str], bool]) -> Reference:
    """Returns the answer about a name that the model does not know.

    Args:
        label: the name.
        knows: whether the model knows another name.
    """
    words = normalise(label).split()
    broader = words[-1] if len(words) > 1 and knows(words[-1]) else None
    return Reference(label, (), (), is_known=False, broader=broader)


def segment_by_name(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    images: Sequence[RgbImage],
    label: str,
    objects: Sequence[Phrase],
) -> Reference:
    """Outlines a named thing on every image that shows it.

    The name is forced as an object, as a part of all images and as a part of the first image.

    Args:
        model: in evaluation mode, on the device of the features.
        tokenizer: of the model with its active adapter.
        features: of the group's images.
        images: (H_i, W_i, 3) uint8, the group's pixels.
        label: the name; need not be a name the model knows.
        objects: objects of the images, from `shown_objects`; only their images are searched.
    """
    shown = tuple(sorted({image for phrase in objects for image in phrase.images}))
    name = prompts.clean_label(label)
    whole, part = Phrase(name, shown, True), Phrase(name, shown, False)
    part_of_first = Phrase(name, shown[:1], False)
    forced = [
        (kind, prompts.write_answer(kind, owners, parts))
        for kind, owners, parts in (
            (RegionKind.COMMON_OBJECT, [whole], []),
            (RegionKind.COMMON_PART, objects, [part]),
            (RegionKind.UNIQUE_PART, objects, [part_of_first]),
        )
    ]
    as_object, as_part, as_unique = draw_scored_answers(
        model, tokenizer, features, sizes_of(images), forced, images=images
    )
    likely = [_name_likelihood(parts) for parts in (as_object, as_part, as_unique)]
    is_object = likely[0] > max(likely[1:])
    scored = [
        _with_presence(part, label, max(likely)) for part in (as_object if is_object else as_part)
    ]
    present = [part for part in scored if part.score >= IS_THERE and part.mask.any()]
    kind = _kind(is_object, len(present), len(features))
    part_id = None if kind is RegionKind.UNIQUE_PART else f"{kind.value}:{label}"
    by_image = {part.image_index: replace(part, kind=kind, part_id=part_id) for part in present}
    absent = tuple(image for image in shown if image not in by_image)
    return Reference(label, tuple(by_image[image] for image in sorted(by_image)), absent)


def shown_objects(
    phrases: Sequence[AnswerPhrase], images: int, *, owner: str | None = None
) -> tuple[Phrase, ...]:
    """Returns the compared object of each image, as the model or the annotator names it.

    Args:
        phrases: of the model's own answers, see `GroupPrediction.phrases`.
        images: of the group.
        owner: the annotator's name of the object, in normal form. Keeps the images where the model
            names it so, or all images, under that name, if the model names it so nowhere.
    """
    named: dict[int, str] = {}
    for kind in (RegionKind.UNIQUE_PART, RegionKind.COMMON_PART):
        named |= {
            image: phrase.label
            for phrase in phrases
            if phrase.kind is kind and phrase.is_object and phrase.label
            for image in phrase.images
        }
    shown = [named.get(image, UNKNOWN_OBJECT) for image in range(images)]
    if owner is not None:
        owned = [image for image, label in enumerate(shown) if normalise(label) == owner]
        return (Phrase(owner, tuple(owned or range(images)), True),)
    return tuple(
        Phrase(label, tuple(i for i, other in enumerate(shown) if other == label), True)
        for label in dict.fromkeys(shown)
    )


def _name_likelihood(parts: Sequence[PartMask]) -> float:
    """How likely the name is in one answer; all regions of the answer have the same name."""
    return max((part.evidence.phrase for part in parts if part.evidence is not None), default=0.0)


def _with_presence(part: PartMask, label: str, likelihood: float) -> PartMask:
    """A region scored by the chance that its image shows the thing."""
    assert part.evidence is not None
    evidence = replace(part.evidence, phrase=likelihood)
    return replace(part, label=label, evidence=evidence, score=PRESENCE.score(evidence))


def _kind(is_object: bool, present: int, images: int) -> RegionKind:
    """What a thing is to its group, by the number of images that show it."""
    if is_object:
        return RegionKind.COMMON_OBJECT
    return RegionKind.UNIQUE_PART if present == 1 < images else RegionKind.COMMON_PART
