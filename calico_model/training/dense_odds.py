"""How often what the dense head sees is right in this project: told by corrections it never saw.

A head is surer of pictures it has not seen than it should be, and how much depends on the project
and on how long it learned. The version before an update meets the new corrections for the first
time: what it sees there, beside what annotators drew, shifts the odds of the versions that follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from calico_model.dense_reading import Seen, images_learned, odds_right, read_dense
from calico_model.images import whole_shares
from calico_model.modeling.model import Calico
from calico_model.training.batches import move
from calico_model.training.dense_images import objects_of, parts_of
from calico_model.training.example import Example
from calico_model.training.frozen import rounded
from calico_model.vocabulary import normalise

_MOST = 40  # groups that are asked
_LEAST_ODDS = -2.0  # what is hardly ever right decides nothing
_SPREAD = 1.0  # of the shift between projects, in log odds: few outcomes move it little
_CARRIED, _MOST_SHIFT = 0.3, 0.5  # of a version's shift the next one has, which learned more since
_STEPS = 20
_RIGHT = 0.5  # IoU of cells


@torch.inference_mode()
def own_shift(
    model: Calico, unseen: Sequence[Example], known: tuple[float, float]
) -> tuple[float, float]:
    """Returns the shift of the odds of parts and of objects, see `DenseRows.shift`.

    Args:
        model: wearing the version before.
        unseen: corrected groups which that version did not learn from.
        known: its own shift, from which outcomes move on.
    """
    head = model.dense_head
    if head is None or not head.worn.trust:
        return known
    device = head.first.device
    images = images_learned(head)
    odds: tuple[list[float], list[float]] = ([], [])
    right: tuple[list[bool], list[bool]] = ([], [])
    for example in list(unseen)[-_MOST:]:
        features = move(rounded(example.features, torch.float32), device)
        for seen in read_dense(model, features, example.sizes_hw).seen:
            told = odds_right(seen.certainty, seen.overlap, images, is_object=seen.is_object)
            if told >= _LEAST_ODDS:
                odds[seen.is_object].append(told)
                right[seen.is_object].append(_is_right(seen, example))
    parts, objects = (
        _carried(before, fit_shift(np.array(own), np.array(truth, np.float64), before))
        for own, truth, before in zip(odds, right, known, strict=True)
    )
    return parts, objects


def _carried(before: float, fitted: float) -> float:
    shift = before + _CARRIED * (fitted - before)
    return min(max(shift, -_MOST_SHIFT), _MOST_SHIFT)


def fit_shift(odds: np.ndarray, right: np.ndarray, before: float) -> float:
    """Returns the likeliest shift of (n,) log odds, given which of (n,) were right, 1 or 0.

    Args:
        odds: before any shift.
        right: outcomes.
        before: the shift that is likeliest without any outcome.
    """
    shift = before
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-(odds + shift)))
        slope = float((chance - right).sum()) + (shift - before) / _SPREAD**2
        bend = float((chance * (1 - chance)).sum()) + 1 / _SPREAD**2
        shift -= slope / bend
    return shift


def _is_right(seen: Seen, example: Example) -> bool:
    """Whether a true region of that name has most of its cells."""
    regions = (objects_of if seen.is_object else parts_of)(example, seen.image)
    inside = (seen.chance > 0.5).cpu()
    for one in regions:
        if normalise(one.label) == seen.label:
            truth = whole_shares(one.mask, inside.shape[-1]) >= 0.5
            shared, union = int((inside & truth).sum()), int((inside | truth).sum())
            if shared >= _RIGHT * union:
                return True
    return False
