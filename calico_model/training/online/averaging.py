"""An update met halfway: the mean of what was learned and what it began with.

A short update on few groups may go too far: it knows them by heart and loses of the others.
Weights between its beginning and its end are often better than both on groups it never saw
(WiSE-FT, Wortsman et al. 2022), because one comes of the other. Rows of names that were not there
before stay as they were learned, and so does the dense head, which rehearses all corrections.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from calico_model.modeling.adapter import (
    DOMAIN_BIAS,
    DOMAIN_WEIGHT,
    INPUT_ROWS,
    OUTPUT_ROWS,
    Adapter,
)

# Found anew from all corrections: there is nothing to go halfway to.
_NOT_WEIGHTS = (DOMAIN_BIAS, DOMAIN_WEIGHT)
_DENSE = "dense_"
"""Of the dense head: it learns from all corrections, old and new, every time."""


def averaged(start: Adapter, learned: Adapter, share: float) -> Adapter:
    """Returns what lies between two adapters.

    Args:
        start: what the update went on from.
        learned: what came of it; its names begin with those of the start.
        share: of the start, in [0, 1].
    """
    tensors: dict[str, Tensor] = {}
    for name, own in learned.tensors.items():
        before = start.tensors.get(name)
        if before is None or name in _NOT_WEIGHTS or name.startswith(_DENSE):
            tensors[name] = own
        elif name in (INPUT_ROWS, OUTPUT_ROWS):
            tensors[name] = _known_first(before, own, share)
        else:
            tensors[name] = own.lerp(before, share)
    return replace(learned, tensors=tensors)


def _known_first(before: Tensor, own: Tensor, share: float) -> Tensor:
    """The mean of (k, W) and the first k of (n, W) rows; the others as they are."""
    rows = own.clone()
    rows[: len(before)] = own[: len(before)].lerp(before, share)
    return rows
