"""Which mask answers a click or a box, of those that several sources give.

A source may answer a lone click with masks of several sizes. Believed is the mask of the most
trusted agreement: those who give it raise its score, those who give another lower it.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_model.sources.consensus import (
    SAME_REGION_IOU,
    Candidate,
    CombinedMask,
    Overlaps,
    SourceProposal,
    join,
    rank_candidates,
    score_together,
)
from calico_model.sources.source import OWN_SOURCE, Ability
from calico_model.sources.trust import TrustTable


def choose(
    proposals: Sequence[SourceProposal],
    trust: TrustTable,
    ability: Ability,
    *,
    label: str | None = None,
) -> CombinedMask:
    """Returns the region that a prompt means.

    As long as nobody was corrected all are believed alike. Then the mask that most others see, too,
    is chosen; of equal agreement, as always between two sources, the first source that the
    deployment added is believed, since it was added for its edges, and of its masks the first.
    CALICO's own decoder comes last.

    Args:
        proposals: at least one, of one size; those of the sources in the order of the settings,
            best first within a source.
        trust: of the project.
        ability: CLICK or BOX.
        label: under which the prompt was made, or what it seems to mean; None if unknown.

    Returns:
        Of sources that are all silent about the label, or that drew nothing, the first proposal.
    """
    names = dict.fromkeys(one.source for one in proposals)
    asked = sorted(names, key=lambda name: name == OWN_SOURCE)
    candidates = rank_candidates(proposals, trust, ability, asked=asked, label=label)
    if not candidates:
        first = proposals[0]
        return CombinedMask(first.mask, first.score, first.label, (first.source,))
    overlaps = Overlaps(candidates)
    best: tuple[tuple[float, float], list[Candidate]] | None = None
    for leader in range(len(candidates)):
        agreeing = _agreeing(leader, candidates, overlaps)
        members = [candidates[place] for place in sorted((leader, *agreeing))]
        score = score_together(members, trust, ability, asked=asked, label=label)
        agreement = sum(overlaps.iou(leader, place) for place in agreeing)
        merit = round(score, 6), round(agreement, 6)
        if best is None or merit > best[0]:
            best = merit, members
    assert best is not None
    return join(best[1], trust, ability, asked=asked, label=label)


def _agreeing(leader: int, candidates: Sequence[Candidate], overlaps: Overlaps) -> list[int]:
    """The mask of every other source that overlaps the leader's most, from IoU 0.5 on."""
    best: dict[str, int] = {}
    for place, other in enumerate(candidates):
        source = other.proposal.source
        if source == candidates[leader].proposal.source:
            continue
        iou = overlaps.iou(leader, place)
        if iou < SAME_REGION_IOU:
            continue
        if source not in best or iou > overlaps.iou(leader, best[source]):
            best[source] = place
    return list(best.values())
