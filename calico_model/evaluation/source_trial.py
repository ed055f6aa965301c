"""Sources on labeled groups: each alone, and all together after the first groups taught trust.

The first groups are corrected as an annotator would: the truth is what is accepted. What they teach
is the trust with which the sources answer the remaining groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from calico_model.errors import InvalidConfigError
from calico_model.evaluation.annotator import next_click
from calico_model.evaluation.matching import hungarian, iou_matrix
from calico_model.evaluation.regions import cut
from calico_model.evaluation.stand_in_sources import Fault, TrueRegion, true_regions
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.masks import mask_iou
from calico_model.sources.consensus import SAME_REGION_IOU, SourceProposal, combine
from calico_model.sources.judging import AcceptedRegion, judge_names, judge_prompt
from calico_model.sources.source import (
    OWN_SOURCE,
    Ability,
    Encoding,
    PromptSource,
    Source,
    SourceDescription,
    SourceMask,
    TextSource,
)
from calico_model.sources.trust import TrustCounts, TrustKey, TrustTable, add_counts
from calico_model.types import BoolMask, ImageGroup, LabeledGroup, RgbImage, image_key

if TYPE_CHECKING:  # torch takes seconds to import, and stand-ins alone do not need it
    from calico_model.assistant import Assistant

TOGETHER = "together"
LEAST_SCORE = 0.5  # of a region that is shown


@dataclass
class _Quality:
    """Sums of panoptic quality over names, and of the IoU of clicks."""

    iou: float = 0.0
    given: int = 0
    truth: int = 0
    clicks: list[float] = field(default_factory=list)

    @property
    def names_pq(self) -> float | None:
        return 200.0 * self.iou / (self.given + self.truth) if self.truth else None

    @property
    def clicks_iou(self) -> float | None:
        return 100.0 * float(np.mean(self.clicks)) if self.clicks else None


@dataclass(frozen=True)
class SourceQuality:
    """One source, or all together, on the groups after the corrected ones.

    Attributes:
        name: of the source, or "together".
        names_pq: panoptic quality of masks by name, in percent; None where it reads no names.
        clicks_iou: mean IoU of the mask of one click, in percent; None where it takes no clicks.
        trust: mean over the corrected labels of the trust in its named masks; None as above.
        silent: number of corrected labels for which it is silent.
    """

    name: str
    names_pq: float | None
    clicks_iou: float | None
    trust: float | None = None
    silent: int = 0


@dataclass(frozen=True)
class SourceTrial:
    """Result of one trial.

    Attributes:
        corrected, tested: numbers of groups.
        labels: names of regions in the corrected groups.
        sources: each alone, then together.
        table: what was learned.
        spoken: sources that took part in the named regions that were shown.
    """

    corrected: int
    tested: int
    labels: tuple[str, ...]
    sources: tuple[SourceQuality, ...]
    table: TrustTable
    spoken: frozenset[str]

    @property
    def lost(self) -> float:
        """Points that all together are below the best single source, at worst; below 0: above."""
        *alone, together = self.sources
        gaps = [0.0] if together.names_pq is None and together.clicks_iou is None else []
        for metric in ("names_pq", "clicks_iou"):
            values = [v for one in alone if (v := getattr(one, metric)) is not None]
            if values:
                gaps.append(max(values) - getattr(together, metric))
        return max(gaps)

    def ordered_labels(self) -> tuple[str, ...]:
        """Corrected labels for which stand-ins are trusted in the right order.

        Exact above shifted, and shifted above both that are never right under a name.
        """

        def trust(fault: Fault, label: str) -> float:
            return self.table.of(fault, Ability.TEXT, label).trust

        return tuple(
            label
            for label in self.labels
            if trust(Fault.EXACT, label)
            > trust(Fault.SHIFTED, label)
            > max(trust(Fault.RANDOM, label), trust(Fault.RENAMES, label))
        )


def try_sources(
    groups: Sequence[LabeledGroup],
    sources: Sequence[Source],
    names: Sequence[str],
    *,
    corrected: int = 10,
    on_group: Callable[[int], None] = lambda _: None,
) -> SourceTrial:
    """Lets sources answer labeled groups and learns whom to believe.

    Every image is asked for all names, and every labeled region is clicked on once,
    at the place farthest from its edge.

    Args:
        groups: more than `corrected`.
        sources: with the abilities CLICK, TEXT or both.
        names: the labels of the project.
        corrected: the number of groups that teach.
        on_group: called with the number of finished groups.

    Raises:
        InvalidConfigError: too few groups, or no source that reads names or takes clicks.
    """
    if len(groups) <= corrected:
        raise InvalidConfigError(
            f"--coco: expected more than {corrected} groups, {corrected} to correct and others to "
            f"test, got {len(groups)}"
        )
    asked = [_Asked(source) for source in sources]
    learned: list[Mapping[TrustKey, TrustCounts]] = []
    labels: set[str] = set()
    for number in range(corrected):
        for answers in _answers(groups[number], asked, names):
            learned += answers.lessons(names)
            labels |= {region.label for region in answers.truth}
        on_group(number + 1)
    table = TrustTable(add_counts(learned))
    quality = {one.name: _Quality() for one in asked} | {TOGETHER: _Quality()}
    spoken: set[str] = set()
    for number in range(corrected, len(groups)):
        for answers in _answers(groups[number], asked, names):
            spoken |= answers.score(table, quality)
        on_group(number + 1)
    counted = sorted(labels)
    return SourceTrial(
        corrected,
        len(groups) - corrected,
        tuple(counted),
        tuple(_summary(name, one, table, counted) for name, one in quality.items()),
        table,
        frozenset(spoken),
    )


def _summary(
    name: str, quality: _Quality, table: TrustTable, labels: Sequence[str]
) -> SourceQuality:
    if name == TOGETHER or quality.names_pq is None:
        return SourceQuality(name, quality.names_pq, quality.clicks_iou)
    beliefs = [table.of(name, Ability.TEXT, label) for label in labels]
    return SourceQuality(
        name,
        quality.names_pq,
        quality.clicks_iou,
        float(np.mean([one.trust for one in beliefs])),
        sum(one.is_silent for one in beliefs),
    )


@dataclass(frozen=True)
class _Asked:
    """A source with what it can do."""

    source: Source

    @property
    def name(self) -> str:
        return self.source.describe().name

    def named(self, encoding: Encoding, names: Sequence[str]) -> list[SourceProposal] | None:
        """Masks of the names; None where the source reads no names."""
        abilities = self.source.describe().abilities
        if Ability.TEXT not in abilities or not isinstance(self.source, TextSource):
            return None
        masks = self.source.segment_names(encoding, names)
        return [SourceProposal(self.name, one.mask, one.score, one.label) for one in masks]

    def clicked(self, encoding: Encoding, click: Click) -> list[SourceProposal] | None:
        """Masks of a click, best first; None where the source takes no clicks."""
        abilities = self.source.describe().abilities
        if Ability.CLICK not in abilities or not isinstance(self.source, PromptSource):
            return None
        masks = self.source.segment_prompt(encoding, MaskPrompt((click,)))
        return [SourceProposal(self.name, one.mask, one.score) for one in masks]


@dataclass(frozen=True, eq=False)
class _Answers:
    """What all sources say about one image."""

    truth: Sequence[TrueRegion]
    named: Mapping[str, Sequence[SourceProposal]]
    clicked: Sequence[Mapping[str, Sequence[SourceProposal]]]  # one per true region

    def lessons(self, names: Sequence[str]) -> Iterator[Mapping[TrustKey, TrustCounts]]:
        """What the truth says about them."""
        accepted = [AcceptedRegion(one.label, one.mask) for one in self.truth]
        given = [one for masks in self.named.values() for one in masks]
        yield judge_names(given, accepted, sources=list(self.named), labels=names)
        for answers in self.clicked:
            first = [masks[0] for masks in answers.values() if masks]
            yield judge_prompt(first, accepted, ability=Ability.CLICK)

    def score(self, table: TrustTable, quality: Mapping[str, _Quality]) -> set[str]:
        """Adds to the quality of each and of all together; returns who took part in names."""
        for name, masks in self.named.items():
            self._score_names(quality[name], [(one.label, one.mask) for one in masks])
        spoken: set[str] = set()
        if self.named:
            given = [one for masks in self.named.values() for one in masks]
            regions = combine(given, table, Ability.TEXT, asked=list(self.named))
            shown = [one for one in regions if one.score >= LEAST_SCORE]
            self._score_names(quality[TOGETHER], [(one.label, one.mask) for one in shown])
            spoken = {source for one in shown for source in one.sources}
        for region, answers in zip(self.truth, self.clicked, strict=True):
            for name, masks in answers.items():
                quality[name].clicks.append(mask_iou(masks[0].mask, region.mask) if masks else 0.0)
            if answers:
                first = [masks[0] for masks in answers.values() if masks]
                best = combine(first, table, Ability.CLICK, asked=list(answers), label=region.label)
                quality[TOGETHER].clicks.append(
                    mask_iou(best[0].mask, region.mask) if best else 0.0
                )
        return spoken

    def _score_names(self, quality: _Quality, given: Sequence[tuple[str | None, BoolMask]]) -> None:
        quality.given += len(given)
        quality.truth += len(self.truth)
        for region in self.truth:
            masks = [cut(mask) for label, mask in given if label == region.label]
            overlaps = iou_matrix(masks, [cut(region.mask)])
            for pair in hungarian(overlaps):
                if overlaps[pair] >= SAME_REGION_IOU:
                    quality.iou += float(overlaps[pair])


def _answers(
    group: LabeledGroup, asked: Sequence[_Asked], names: Sequence[str]
) -> Iterator[_Answers]:
    """Asks all sources about every image of a group."""
    for index, image in enumerate(group.group.images):
        truth = true_regions(group, index)
        encodings = {one.name: one.source.encode(image) for one in asked}
        named, clicked = {}, []
        for one in asked:
            masks = one.named(encodings[one.name], names)
            if masks is not None:
                named[one.name] = masks
        for region in truth:
            answers = {}
            click = _middle(region)
            for one in asked:
                masks = one.clicked(encodings[one.name], click)
                if masks is not None:
                    answers[one.name] = masks
            clicked.append(answers)
        yield _Answers(truth, named, clicked)


def _middle(region: TrueRegion) -> Click:
    """A click as far from the region's edge as possible."""
    click = next_click(np.zeros_like(region.mask), region.mask)
    assert click is not None  # true regions are not empty
    return Click(click.column + 0.5, click.row + 0.5)


class OwnSource:
    """CALICO's own decoder as one source among the others: clicks and boxes, on cached features.

    Args:
        assistant: the model of a version; keeps the features of the images itself.
    """

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant

    def describe(self) -> SourceDescription:
        """Returns its name and abilities; the weights are named by their version."""
        abilities = frozenset({Ability.CLICK, Ability.BOX})
        licence = "see the model card of its weights"
        return SourceDescription(
            OWN_SOURCE, abilities, self._assistant.version, licence, self._assistant.parameters
        )

    def encode(self, image: RgbImage) -> Encoding:
        """Names an image; its features are computed with the first prompt and kept by the model."""
        group = ImageGroup((image,), (image_key(image),))
        return Encoding(group.sizes_hw[0], group, image.nbytes)

    def segment_prompt(self, encoding: Encoding, prompt: MaskPrompt) -> Sequence[SourceMask]:
        """Returns one mask.

        Raises:
            InvalidMaskError: the earlier mask of the prompt has another size than the image.
        """
        refined = self._assistant.refine(encoding.state, 0, prompt)
        return (SourceMask(refined.mask, min(max(refined.iou, 0.0), 1.0)),)
