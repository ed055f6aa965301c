"""FLOPs by stage: torch's counter, read before and after each watched module.

Counted are matrix products, convolutions and attention, two per multiply-add, in full squares
whatever the mask. Not counted, because the counter knows no rule for them: norms, activations,
softmax, rotary embeddings, additions, interpolation and look-ups. Most of them grow with a layer's
width where products grow with its square.
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
    """Runs a computation on the meta device.

    Args:
        compute: uses tensors on the meta device alone.
        stages: modules by the stage they belong to. A module inside another counts for the outer.

    Returns:
        FLOPs by stage, stages that did nothing left out; `OTHER` holds what no module did.
    """
    counter = FlopCounterMode(display=False)
    found = dict.fromkeys(stages, 0)
    with torch.device("meta"), torch.no_grad(), _watch(counter, stages, found), counter:
        compute()
    found[OTHER] = counter.get_total_flops() - sum(found.values())
    return {stage: flops for stage, flops in found.items() if flops}


@contextmanager
def _watch(
    counter: FlopCounterMode, stages: Mapping[str, Sequence[nn.Module]], found: dict[str, int]
) -> Iterator[None]:
    entered: list[int] = []
    handles: list[RemovableHandle] = []

    def enter(*_: object) -> None:
        entered.append(counter.get_total_flops())

    def leave(stage: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            before = entered.pop()
            if not entered:
                found[stage] += counter.get_total_flops() - before

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
