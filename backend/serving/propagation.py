"""Propagates one clicked or accepted region to all images of its group.

Images that do not show it are reported, not drawn on. Pure but for the model it calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backend.errors import InvalidRleError
from backend.served_model import ServedModel
from backend.serving.named_sources import begin_alike, join_alike
from backend.serving.source_pool import SourcePool, SourceSession, checked
from backend.serving.source_trust import NOBODY_JUDGED, TaskTrust
from backend.types import Region
from calico_model.sources.source import Ability, SeriesSource, SourceMask
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, PartMask
from calico_model.vocabulary import Vocabulary, name_of, normalise

_TAG_SIGNS = frozenset("<>[]()")  # a label with these could be read as a tag of the answers


@dataclass(frozen=True, eq=False)
class Propagated:
    """Suggestions that follow from one region.

    Attributes:
        parts: the region itself, then the regions found elsewhere, in image order.
        absent: images that do not show it, rising.
    """

    parts: tuple[PartMask, ...]
    absent: tuple[int, ...] = ()


def propagate(
    part: PartMask,
    group: ImageGroup,
    group_prediction: GroupPrediction | None,
    model: ServedModel,
    vocabulary: Vocabulary | None = None,
    *,
    sources: SourcePool | None = None,
    trust: TaskTrust = NOBODY_JUDGED,
) -> Propagated:
    """Proposes a region on all images of its group.

    Sources that take exemplars look for it while the model does.

    Args:
        part: the region, named or not; an empty one is propagated nowhere.
        group: 1 to 8 images.
        group_prediction: what the model predicted for the group, if that is known.
        model: the version that answers.
        vocabulary: the labels that regions may have; None where any text may be written.
        sources: asked beside the model; None for the model alone.
        trust: in the sources, for this task.
    """
    if len(group) < 2 or not part.mask.any():
        return Propagated((part,))
    name = _model_name(part.label, group_prediction, vocabulary)
    pending = begin_alike(sources, group, part)
    own = model.transfer(group, replace(part, label=name), group_prediction)
    proposals = join_alike(pending, own, part, group, trust)
    parts = tuple(
        _relabelled(region, part.label) for proposal in proposals for region in proposal.parts
    )
    absent = tuple(proposal.image_index for proposal in proposals if not proposal.parts)
    return Propagated((part, *parts), absent)


def carry_on(
    part: PartMask,
    group: ImageGroup,
    model: ServedModel,
    canvas: Sequence[Region],
    vocabulary: Vocabulary | None = None,
    sources: SourcePool | None = None,
) -> Propagated:
    """Carries a region of an ordered series to the images that follow it.

    The regions of its label on the canvas are the same part, where an image has exactly one.

    Args:
        part: the region, named or not; an empty one is carried nowhere.
        group: 1 to 8 images in order.
        model: the version that answers.
        canvas: regions that are there.
        vocabulary: the labels that regions may have; None where any text may be written.
        sources: the first that remembers series answers in place of the model.
    """
    if len(group) < 2 or not part.mask.any():
        return Propagated((part,))
    accepted = _accepted(part, group, canvas, vocabulary)
    if sources:
        known = {**accepted, part.image_index: part.mask}
        found = _carried_by_source(part, group, known, sources)
        if found is not None:
            return found
    proposals = model.carry(group, part, accepted)
    parts = tuple(region for proposal in proposals for region in proposal.parts)
    absent = tuple(proposal.image_index for proposal in proposals if not proposal.parts)
    return Propagated((part, *parts), absent)


def _carried_by_source(
    part: PartMask, group: ImageGroup, known: Mapping[int, BoolMask], sources: SourcePool
) -> Propagated | None:
    """What the first source that answers in time says; None if none does."""

    def ask(session: SourceSession) -> Mapping[int, SourceMask]:
        source = session.source
        assert isinstance(source, SeriesSource)
        carried = source.carry_series(group.images, known)
        for image, mask in carried.items():
            checked([mask], group.sizes_hw[image])
        return carried

    answers = sources.begin(Ability.SERIES, ask).collect().answers
    if not answers:
        return None
    masks = answers[0].value
    following = [image for image in sorted(masks) if image > part.image_index]
    parts = tuple(
        replace(
            part,
            image_index=image,
            mask=masks[image].mask,
            score=masks[image].score,
            evidence=None,
        )
        for image in following
        if masks[image].mask.any()
    )
    absent = tuple(image for image in following if not masks[image].mask.any())
    return Propagated((part, *parts), absent)


def _accepted(
    part: PartMask,
    group: ImageGroup,
    canvas: Sequence[Region],
    vocabulary: Vocabulary | None,
) -> dict[int, BoolMask]:
    """The masks of the same part on other images, as far as they can be used."""
    if not part.label:
        return {}
    name = name_of(part.label, vocabulary)
    same = [
        region
        for region in canvas
        if region.label is not None and name_of(region.label, vocabulary) == name
    ]
    counts = Counter(region.image_index for region in same)
    accepted = {}
    for region in same:
        image = region.image_index
        if image == part.image_index or image >= len(group) or counts[image] > 1:
            continue
        try:
            mask = region.mask
        except InvalidRleError:
            continue
        if mask.shape == group.sizes_hw[image] and mask.any():
            accepted[image] = mask
    return accepted


def _model_name(
    label: str, group_prediction: GroupPrediction | None, vocabulary: Vocabulary | None
) -> str:
    """Returns the model's name of a label: a spelling it has predicted, else the first one."""
    if vocabulary is None or label not in vocabulary.labels:
        return normalise(label) if set(label) & _TAG_SIGNS else label
    spellings = vocabulary.spellings(label)
    predicted = (
        {normalise(part.label) for part in group_prediction.parts}
        if group_prediction is not None
        else set()
    )
    return next((name for name in spellings if name in predicted), spellings[0])


def _relabelled(region: PartMask, label: str) -> PartMask:
    """Puts a region, and a part id that begins with its label, under the project's label."""
    part_id = region.part_id
    if part_id is not None and part_id.startswith(f"{region.label}@"):
        part_id = f"{label}{part_id.removeprefix(region.label)}"
    return replace(region, label=label, part_id=part_id)
