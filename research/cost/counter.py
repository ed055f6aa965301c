"""FLOPs by stage: torch's counter, read before and after each watched module.

Counted are matrix products, convolutions and attention: two operations per multiply-add, attention
in full squares whatever its mask. Not counted, because the counter has no rule for them, are norms,
activations, softmax, rotary embeddings, additions, interpolation and look-ups. Most of these grow
with a layer's width, products with its square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

OTHER = "other"


def count_stages(
    compute: Callable[[], object], stages: Mapping[str, Sequence[nn.Module]]
) -> dict[str, int]:
    """Runs a computation on the meta device and counts its FLOPs.

    Args:
        compute: uses tensors on the meta device alone.
        stages: modules by stage. A module inside another counts for the outer stage.

    Returns:
        FLOPs by stage, without stages of 0; `OTHER` holds the FLOPs outside all modules.
    """
    counter = FlopCounterMode(display=False)
    counts = dict.fromkeys(stages, 0)
    with torch.device("meta"), torch.no_grad(), _watch(counter, stages, counts), counter:
        compute()
    counts[OTHER] = counter.get_total_flops() - sum(counts.values())
    return {stage: flops for stage, flops in counts.items() if flops}


@contextmanager
def _watch(
    counter: FlopCounterMode, stages: Mapping[str, Sequence[nn.Module]], counts: dict[str, int]
) -> Iterator[None]:
    """Adds the FLOPs of every outermost watched module to its stage."""
    entered: list[int] = []
    handles: list[RemovableHandle] = []

    def enter(*_: object) -> None:
        entered.append(counter.get_total_flops())

    def leave(stage: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            before = entered.pop()
            if not entered:
                counts[stage] += counter.get_total_flops() - before

        return note

    for stage, modules in stages.items():
        for module in modules:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave(stage)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
