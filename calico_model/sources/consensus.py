"""Several sources, one answer: masks are matched, and each votes with the trust it has earned.

Masks of two sources mean the same region where they have the same name and IoU >= 0.5. A source
that gives the region raises its score, and one that was asked and does not give it lowers it (naive
Bayes; the consensus of detectors in GranD, Rasheed et al. 2024, counts votes without learning).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calico_model.errors import InvalidMaskError
from calico_model.evaluation.matching import iou_matrix
from calico_model.evaluation.regions import Crop, cut
from calico_model.sources.source import Ability
from calico_model.sources.trust import SourceTrust, TrustTable
from calico_model.types import BoolMask

SAME_REGION_IOU = 0.5
_SAME_PLACE_IOU = 0.9  # above it two names are names of one region


@dataclass(frozen=True, eq=False)
class SourceProposal:
    """A mask that one source gives for an image.

    Attributes:
        source: name of the source.
        mask: (H, W) bool in the pixels of the image.
        score: the source's own confidence in [0, 1]; orders its masks, and is not compared with
            the scores of others.
        label: the name that the mask answers; None where no name was asked.
    """

    source: str
    mask: BoolMask
    score: float
    label: str | None = None


@dataclass(frozen=True, eq=False)
class CombinedMask:
    """A region on which the sources agree, more or less.

    Attributes:
        mask: (H, W) bool in the pixels of the image.
        score: chance in (0, 1) that an annotator keeps it, by the trust in those that give it and
            in those that do not.
        label: its name, or None.
        sources: who gives it, the most trusted first.
    """

    mask: BoolMask
    score: float
    label: str | None
    sources: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that takes part in an answer.

    Attributes:
        proposal: the mask.
        crop: the same mask, cropped.
        trust: in its source, about its name.
        place: of its source among those that were asked.
    """

    proposal: SourceProposal
    crop: Crop
    trust: SourceTrust
    place: int

    @property
    def rank(self) -> tuple[float, int, float]:
        """Falls with trust; of equally trusted sources with the order in which they were asked."""
        return -self.trust.trust, self.place, -self.proposal.score


def combine(
    proposals: Sequence[SourceProposal],
    trust: TrustTable,
    ability: Ability,
    *,
    asked: Sequence[str],
    label: str | None = None,
) -> tuple[CombinedMask, ...]:
    """Combines the masks that several sources give for one image and one question.

    Args:
        proposals: of one image; masks of one size.
        trust: of the project.
        ability: which kind of question was asked.
        asked: names of all sources that answered, those without a mask included; of equally
            trusted ones the first leads. A source that failed is not among them: it says nothing
            about what is not there.
        label: what the question is about, where the sources themselves name nothing, such as a
            click under a selected label; None if that is unknown.

    Returns:
        Regions, best first. Sources that are silent for a label take no part in its regions.

    Raises:
        InvalidMaskError: two masks differ in size.
    """
    candidates = rank_candidates(proposals, trust, ability, asked=asked, label=label)
    overlaps = Overlaps(candidates)
    regions = []
    for places in _matched(candidates, _first_names(candidates, overlaps), overlaps):
        members = [candidates[place] for place in places]
        name = members[0].proposal.label or label
        regions.append(join(members, trust, ability, asked=asked, label=name))
    return tuple(sorted(_once(regions), key=lambda region: region.score, reverse=True))


class Overlaps:
    """IoU between candidates, computed when it is asked for.

    Raises:
        InvalidMaskError: two masks differ in size.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._crops = [one.crop for one in candidates]
        self._known: dict[tuple[int, int], float] = {}
        for crop in self._crops:
            if crop.size_hw != self._crops[0].size_hw:
                raise InvalidMaskError(
                    f"mask: expected the size of the others {self._crops[0].size_hw}, "
                    f"got {crop.size_hw}"
                )

    def iou(self, one: int, other: int) -> float:
        """Returns the IoU in [0, 1] of two places; 0 where the areas alone forbid 0.5."""
        pair = min(one, other), max(one, other)
        if pair not in self._known:
            mine, theirs = self._crops[pair[0]], self._crops[pair[1]]
            small, large = sorted((mine.area, theirs.area))
            is_alike = small >= SAME_REGION_IOU * large
            self._known[pair] = float(iou_matrix([mine], [theirs])[0, 0]) if is_alike else 0.0
        return self._known[pair]


def rank_candidates(
    proposals: Sequence[SourceProposal],
    trust: TrustTable,
    ability: Ability,
    *,
    asked: Sequence[str],
    label: str | None = None,
) -> list[Candidate]:
    """Returns the masks that are not empty, of sources that are not silent, most trusted first.

    The arguments are those of `combine`.
    """
    candidates = []
    for proposal in proposals:
        belief = trust.answering(proposal.source, ability, proposal.label or label)
        if not belief.is_silent and proposal.mask.any():
            place = asked.index(proposal.source)
            candidates.append(Candidate(proposal, cut(proposal.mask), belief, place))
    return sorted(candidates, key=lambda one: one.rank)


def join(
    members: Sequence[Candidate],
    trust: TrustTable,
    ability: Ability,
    *,
    asked: Sequence[str],
    label: str | None,
) -> CombinedMask:
    """Makes one region of the masks that mean it, at most one per source, most trusted first.

    Args:
        members: at least one.
        trust, ability, asked: as in `combine`.
        label: what the region is called, or what the question is about.
    """
    return CombinedMask(
        mask=_outline(members),
        score=score_together(members, trust, ability, asked=asked, label=label),
        label=members[0].proposal.label,
        sources=tuple(one.proposal.source for one in members),
    )


def score_together(
    members: Sequence[Candidate],
    trust: TrustTable,
    ability: Ability,
    *,
    asked: Sequence[str],
    label: str | None,
) -> float:
    """Returns the score of the region that `join` makes of the same arguments, in (0, 1)."""
    giving = {one.proposal.source for one in members}
    beliefs = [trust.answering(source, ability, label) for source in asked if source not in giving]
    log_odds = sum(one.trust.support for one in members)
    log_odds += sum(belief.doubt for belief in beliefs if not belief.is_silent)
    return 1.0 / (1.0 + math.exp(-log_odds))


def _first_names(candidates: Sequence[Candidate], overlaps: Overlaps) -> list[int]:
    """Non-maximum suppression in each source, over names: one name per place.

    Places of the candidates that stay. Two masks of one name are one from IoU 0.5 on, two masks of
    different names only where they hardly differ: a lid and its box may overlap by half.
    """
    kept: list[int] = []
    for place, one in enumerate(candidates):
        for other in kept:
            rival = candidates[other].proposal
            if rival.source != one.proposal.source:
                continue
            is_same_name = rival.label == one.proposal.label
            limit = SAME_REGION_IOU if is_same_name else _SAME_PLACE_IOU
            if overlaps.iou(place, other) >= limit:
                break
        else:
            kept.append(place)
    return kept


def _matched(
    candidates: Sequence[Candidate], kept: Sequence[int], overlaps: Overlaps
) -> list[list[int]]:
    """Joins the masks of different sources that mean one region; the most trusted leads."""
    free = list(kept)
    matched = []
    while free:
        leader = free.pop(0)
        own = candidates[leader].proposal
        best: dict[str, int] = {}
        for place in free:
            other = candidates[place].proposal
            if other.source == own.source or other.label != own.label:
                continue
            iou = overlaps.iou(leader, place)
            rival = best.get(other.source)
            if iou < SAME_REGION_IOU:
                continue
            if rival is None or iou > overlaps.iou(leader, rival):
                best[other.source] = place
        members = sorted(best.values())
        free = [place for place in free if place not in members]
        matched.append([leader, *members])
    return matched


def _outline(members: Sequence[Candidate]) -> BoolMask:
    """Weighted majority of the masks, pixel by pixel; a tie is decided by the most trusted."""
    votes = [one.trust.vote for one in members]
    leader = members[0].proposal.mask
    if votes[0] >= sum(votes[1:]):
        return leader
    boxes = np.array([one.crop.box for one in members])  # top, bottom, left, right
    top, left = (int(low) for low in boxes[:, [0, 2]].min(axis=0))
    bottom, right = (int(high) for high in boxes[:, [1, 3]].max(axis=0))
    weights = np.zeros((bottom - top, right - left), np.float32)
    for one, vote in zip(members, votes, strict=True):
        inside = one.crop.window((top, bottom, left, right))
        weights += np.where(inside, np.float32(vote), np.float32(-vote))
    outline = np.zeros_like(leader)
    won = np.where(weights == 0.0, leader[top:bottom, left:right], weights > 0.0)
    outline[top:bottom, left:right] = won
    return outline if won.any() else leader


def _once(regions: Sequence[CombinedMask]) -> list[CombinedMask]:
    """Drops the less certain of two names for one place, unless one source gives both."""
    kept: list[tuple[CombinedMask, Crop]] = []
    for region in sorted(regions, key=lambda one: one.score, reverse=True):
        crop = cut(region.mask)
        for other, other_crop in kept:
            if set(region.sources) & set(other.sources):
                continue
            if iou_matrix([crop], [other_crop])[0, 0] >= SAME_REGION_IOU:
                break
        else:
            kept.append((region, crop))
    return [region for region, _ in kept]
