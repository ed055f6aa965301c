"""An earlier mask as the dense prompt of the mask decoder (SAM, section 3: masks are embedded).

The decoder learns from both forms: logits of its own round before, and masks that annotators drew,
of which only bits are known. Both stay in the same range.
"""

from __future__ import annotations

from torch import Tensor

SURE = 10.0
"""Logit of a cell that is known to be all inside; its negative, all outside."""


def bounded(logits: Tensor) -> Tensor:
    """Clamps logits of any shape to the range of a drawn mask."""
    return logits.clamp(-SURE, SURE)


def from_shares(shares: Tensor) -> Tensor:
    """Logits of a drawn mask.

    Args:
        shares: of any shape, in [0, 1]: how much of each cell is inside.
    """
    return (2.0 * shares - 1.0) * SURE
