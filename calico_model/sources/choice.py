"""Which of the sources' masks answers a click or a box.

`choose` is the one place that decides. It knows no project: no source is believed more than
another, only what others confirm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calico_model.sources.consensus import SourceProposal
from calico_model.sources.source import OWN_SOURCE
from calico_model.types import BoolMask

_LEAST_AGREEMENT = 0.5  # masks below this IoU show different things


def choose(proposals: Sequence[SourceProposal]) -> SourceProposal:
    """Returns the proposal that the other sources agree with most.

    The agreement of a proposal is the mean, over the other sources, of its best IoU with a mask of
    that source, where an IoU below 0.5 counts nothing. So a source that answers a lone click with
    masks of several sizes is believed in the size that others see, too. Of equal agreement, as
    always between two sources, the first source that the deployment added is believed, since it
    was added for its edges, and of its masks the first.

    Args:
        proposals: at least one, of one size; CALICO's own and those of the sources in the order of
            the settings, best first within a source.
    """
    added_first = sorted(proposals, key=lambda proposal: proposal.source == OWN_SOURCE)
    drawn = [proposal for proposal in added_first if proposal.mask.any()]
    return max(drawn, key=lambda one: _agreement(one, drawn), default=proposals[0])


def _agreement(proposal: SourceProposal, proposals: Sequence[SourceProposal]) -> float:
    best: dict[str, float] = {}
    for other in proposals:
        if other.source != proposal.source:
            iou = _iou(proposal.mask, other.mask)
            best[other.source] = max(iou, best.get(other.source, 0.0))
    agreeing = [iou for iou in best.values() if iou >= _LEAST_AGREEMENT]
    return round(sum(agreeing) / len(best), 6) if agreeing else 0.0


def _iou(left: BoolMask, right: BoolMask) -> float:
    union = int(np.count_nonzero(left | right))
    return int(np.count_nonzero(left & right)) / union if union else 0.0
