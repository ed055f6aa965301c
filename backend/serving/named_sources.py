"""Names and exemplars through the sources beside CALICO, joined with what CALICO itself found.

A source that is asked by name gives every instance; CALICO gives one mask per image. Of masks that
cover each other the likelier one is kept. Who fails or is slow is left out; where nobody answers,
CALICO's answer stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from backend.serving.source_pool import (
    PendingAnswers,
    SourceAnswers,
    SourcePool,
    SourceSession,
    checked,
)
from backend.serving.source_trust import TaskTrust
from calico_model.sources.consensus import CombinedMask, SourceProposal, combine
from calico_model.sources.source import (
    OWN_SOURCE,
    Ability,
    ExemplarSource,
    SourceMask,
    TextSource,
)
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from calico_model.interactive.propagate.transfer import Proposal
    from calico_model.interactive.referring import Reference

ImageAnswers = Mapping[int, tuple[SourceMask, ...]]
"""Masks by 0-based image of the group; of images that were not asked there is no entry."""

ASKED_FROM = 0.3
"""Least chance at which a region is suggested to an annotator who asked for it."""
UNASKED_FROM = 0.5
"""Least chance at which a region is shown to somebody who asked for nothing."""
MOST_UNASKED = 12
"""Labels that are looked for unasked in one task; each costs the sources time."""
_INSIDE = 0.7  # of an instance: it is part of CALICO's mask of all of them
_COVERED = 0.5  # of the smaller of two regions: they mean one thing


@dataclass(frozen=True, eq=False)
class NamedQuestion:
    """Names that the sources are being asked for.

    Attributes:
        pending: their answers.
        label_of: asked spelling -> label.
    """

    pending: PendingAnswers[ImageAnswers]
    label_of: Mapping[str, str]


def begin_names(
    sources: SourcePool | None,
    group: ImageGroup,
    spellings: Mapping[str, Sequence[str]],
    *,
    budget_s: float | None = None,
) -> NamedQuestion | None:
    """Asks all sources that know words for names on every image; returns at once.

    Args:
        sources: None, or none that knows words, asks nobody: the answer is None.
        group: the task's images.
        spellings: label -> the names it is asked by.
        budget_s: longest time to wait for them; None for that of clicks.
    """
    if not sources or not spellings or not sources.may_answer(Ability.TEXT):
        return None
    label_of = {name: label for label, names in spellings.items() for name in names}
    names = tuple(label_of)

    def ask(session: SourceSession) -> ImageAnswers:
        source = session.source
        assert isinstance(source, TextSource)
        return {
            image: checked(source.segment_names(session.encode(group, image), names), size_hw)
            for image, size_hw in enumerate(group.sizes_hw)
        }

    return NamedQuestion(sources.begin(Ability.TEXT, ask, budget_s=budget_s), label_of)


def join_names(
    question: NamedQuestion | None,
    references: Sequence[Reference],
    group: ImageGroup,
    trust: TaskTrust,
    *,
    least: float = ASKED_FROM,
) -> tuple[list[Reference], bool]:
    """Joins what the sources answer with what CALICO found.

    Args:
        question: from `begin_names`.
        references: what CALICO found, one per label.
        group: the task's images.
        trust: in the sources, for this task; the answers are left there for learning.
        least: chance below which a region is left out.

    Returns:
        The references, in order; a name that only a source knows is known. And whether all
        sources answered.
    """
    if question is None:
        return list(references), True
    answers = question.pending.collect()
    if not answers.answers:
        return list(references), not answers.left_out
    asked = [answer.source for answer in answers.answers]
    found: dict[str, list[PartMask]] = {reference.label: [] for reference in references}
    for image, size_hw in enumerate(group.sizes_hw):
        theirs = list(_named(answers, image, question.label_of, trust))
        for is_known in (True, False):
            alike = [one for one in references if one.is_known is is_known]
            names = {trust.name_of(one.label): one for one in alike}
            own = [
                SourceProposal(OWN_SOURCE, part.mask, part.score, trust.name_of(one.label))
                for one in alike
                for part in one.parts
                if part.image_index == image
            ]
            proposals = [*own, *(one for one in theirs if one.label in names)]
            voters = [OWN_SOURCE, *asked] if is_known else asked
            votes = _split(proposals)
            regions = combine(votes, trust.table, Ability.TEXT, asked=voters)
            for region in _apart(regions, least):
                reference = names[region.label]
                found[reference.label].append(_as_part(region, image, reference.parts, reference))
            labels = [one.label for one in alike]
            if labels:
                question_key = tuple(sorted(labels))
                trust.record(
                    image,
                    Ability.TEXT,
                    question_key,
                    size_hw,
                    asked=voters,
                    labels=labels,
                    proposals=proposals,
                )
    joined = [_joined(reference, found[reference.label], len(group)) for reference in references]
    return joined, not answers.left_out


def find_unasked(
    sources: SourcePool | None,
    group: ImageGroup,
    prediction: GroupPrediction,
    vocabulary: Vocabulary,
    trust: TaskTrust,
    *,
    budget_s: float,
) -> tuple[GroupPrediction, bool]:
    """Looks for the project's labels of which CALICO shows nothing; nobody asked for them.

    Args:
        sources: those that know words are asked.
        group: the task's images.
        prediction: CALICO's, under the project's labels.
        vocabulary: the project's labels.
        trust: in the sources, for this task.
        budget_s: longest time to wait for them.

    Returns:
        The prediction with the regions that are likely, and whether all sources answered.
    """
    from calico_model.interactive.referring import Reference

    shown = {part.label for part in prediction.parts}
    silent = [label for label in vocabulary.labels if label not in shown][:MOST_UNASKED]
    spellings = {label: vocabulary.spellings(label)[:1] for label in silent}
    question = begin_names(sources, group, spellings, budget_s=budget_s)
    nothing = [Reference(label, (), (), is_known=False) for label in silent]
    found, is_complete = join_names(question, nothing, group, trust, least=UNASKED_FROM)
    parts = [part for reference in found for part in reference.parts]
    return replace(prediction, parts=(*prediction.parts, *parts)), is_complete


def begin_alike(
    sources: SourcePool | None, group: ImageGroup, part: PartMask
) -> PendingAnswers[ImageAnswers] | None:
    """Asks all sources that take exemplars for a region on the other images; returns at once."""
    if not sources or not sources.may_answer(Ability.EXEMPLAR):
        return None

    def ask(session: SourceSession) -> ImageAnswers:
        source = session.source
        assert isinstance(source, ExemplarSource)
        exemplar = session.encode(group, part.image_index)
        return {
            image: checked(
                source.segment_alike(session.encode(group, image), exemplar, part.mask), size_hw
            )
            for image, size_hw in enumerate(group.sizes_hw)
            if image != part.image_index
        }

    return sources.begin(Ability.EXEMPLAR, ask)


def join_alike(
    pending: PendingAnswers[ImageAnswers] | None,
    proposals: Sequence[Proposal],
    part: PartMask,
    group: ImageGroup,
    trust: TaskTrust,
) -> tuple[Proposal, ...]:
    """Joins what the sources find on the other images with CALICO's proposals.

    Args:
        pending: from `begin_alike`.
        proposals: CALICO's; those of the outlined image itself stay as they are.
        part: the outlined region, under the label that it was proposed by.
        group: the task's images.
        trust: in the sources, for this task.

    Returns:
        One per image that CALICO or a source was asked about.
    """
    from calico_model.interactive.propagate.transfer import Proposal

    answers = None if pending is None else pending.collect()
    if answers is None or not answers.answers:
        return tuple(proposals)
    asked = [answer.source for answer in answers.answers]
    name = trust.name_of(part.label)
    joined = [one for one in proposals if one.image_index == part.image_index]
    own = {one.image_index: one for one in proposals}
    for image, size_hw in enumerate(group.sizes_hw):
        if image == part.image_index:
            continue
        parts = own[image].parts if image in own else ()
        given = [SourceProposal(OWN_SOURCE, one.mask, one.score, name) for one in parts]
        given += [
            SourceProposal(answer.source, mask.mask, mask.score, name)
            for answer in answers.answers
            for mask in answer.value[image]
        ]
        voters = [OWN_SOURCE, *asked] if image in own else asked
        votes = _split(given)
        regions = combine(votes, trust.table, Ability.EXEMPLAR, asked=voters, label=name)
        shown = tuple(
            _as_part(region, image, parts, part) for region in _apart(regions, ASKED_FROM)
        )
        score = max((one.score for one in shown), default=0.0)
        joined.append(Proposal(image, _with_own_ids(shown, part.label), score))
        if part.label:
            trust.record(
                image,
                Ability.EXEMPLAR,
                (part.image_index, part.label),
                size_hw,
                asked=voters,
                labels=(part.label,),
                proposals=given,
            )
    return tuple(joined)


def _named(
    answers: SourceAnswers[ImageAnswers],
    image: int,
    label_of: Mapping[str, str],
    trust: TaskTrust,
) -> Iterable[SourceProposal]:
    """The sources' masks of one image, under the names that labels are believed by."""
    for answer in answers.answers:
        for mask in answer.value[image]:
            label = label_of.get(mask.label or "")
            if label is not None:
                name = trust.name_of(label)
                yield SourceProposal(answer.source, mask.mask, mask.score, name)


def _split(proposals: Sequence[SourceProposal]) -> list[SourceProposal]:
    """Splits a mask of CALICO among the instances that a source finds in it.

    CALICO names all wheels with one mask. Undivided it would vote for the largest wheel alone.
    """
    votes = []
    for one in proposals:
        inside = [] if one.source != OWN_SOURCE else _instances_inside(one, proposals)
        votes += [replace(one, mask=one.mask & mask) for mask in inside] or [one]
    return votes


def _instances_inside(own: SourceProposal, proposals: Sequence[SourceProposal]) -> list[BoolMask]:
    """The instances of the first source that has several inside a mask; none if none has."""
    for source in dict.fromkeys(one.source for one in proposals):
        if source == OWN_SOURCE:
            continue
        inside = [
            one.mask
            for one in proposals
            if one.source == source
            and one.label == own.label
            and np.count_nonzero(one.mask & own.mask) > _INSIDE * np.count_nonzero(one.mask)
        ]
        if len(inside) > 1:
            return inside
    return []


def _apart(regions: Sequence[CombinedMask], least: float) -> list[CombinedMask]:
    """Likely regions, each thing once: of two that cover each other, the likelier one.

    Of equally likely ones the smaller: instances instead of the mask of all of them.
    """
    kept: list[CombinedMask] = []
    likely = [region for region in regions if region.score >= least]
    areas = {id(region): int(np.count_nonzero(region.mask)) for region in likely}
    for region in sorted(likely, key=lambda one: (-round(one.score, 6), areas[id(one)])):
        for other in kept:
            if other.label != region.label:
                continue
            shared = int(np.count_nonzero(other.mask & region.mask))
            if shared > _COVERED * min(areas[id(other)], areas[id(region)]):
                break
        else:
            kept.append(region)
    return kept


def _as_part(
    region: CombinedMask, image: int, own: Sequence[PartMask], named: Reference | PartMask
) -> PartMask:
    """A region as a part: of CALICO's own, if it is one of those, else a new one."""
    here = [part for part in own if part.image_index == image]
    known = here or list(own) or ([named] if isinstance(named, PartMask) else [])
    if known:
        mask = region.mask.copy()
        return replace(known[0], image_index=image, mask=mask, score=region.score, evidence=None)
    return PartMask(
        image, RegionKind.UNIQUE_PART, named.label, region.mask.copy(), score=region.score
    )


def _joined(reference: Reference, parts: Sequence[PartMask], images: int) -> Reference:
    """A reference with other regions; the kind follows from the images that show it."""
    shown = {part.image_index for part in parts}
    absent = tuple(image for image in range(images) if image not in shown)
    if not reference.parts and len(shown) > 1:
        parts = [replace(part, kind=RegionKind.COMMON_PART) for part in parts]
    identified = _with_own_ids(tuple(parts), reference.label)
    return replace(reference, parts=identified, absent=absent, is_known=True, broader=None)


def _with_own_ids(parts: tuple[PartMask, ...], label: str) -> tuple[PartMask, ...]:
    """Gives several instances in one image an id each: by image, and number in reading order."""
    images = [part.image_index for part in parts]
    if len(set(images)) == len(images):
        return parts
    ordered = sorted(parts, key=lambda part: (part.image_index, *_first_pixel(part)))
    numbers: dict[int, int] = {}
    named = []
    for part in ordered:
        numbers[part.image_index] = numbers.get(part.image_index, 0) + 1
        place = f"@{part.image_index + 1}.{numbers[part.image_index]}"
        named.append(replace(part, part_id=f"{label}{place}"))
    return tuple(named)


def _first_pixel(part: PartMask) -> tuple[int, int]:
    """Row and column of the first pixel of a region."""
    row, column = divmod(int(np.argmax(part.mask)), int(part.mask.shape[1]))
    return row, column
