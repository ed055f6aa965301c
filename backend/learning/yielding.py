"""Pauses inside a network: a call after every layer, forward and backward.

A step of training takes longer than a prediction does, so a pause between steps comes too late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def call_at_every_layer(model: nn.Module, call: Callable[[], None]) -> Callable[[], None]:
    """Calls something again and again while a model works; what it computes stays the same.

    Args:
        model: every module without modules of its own counts as a layer.
        call: must be quick; what it raises ends the work.

    Returns:
        What ends it.
    """

    def after(_module: nn.Module, _given: Any, output: Any) -> None:
        call()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda _gradient: call())  # type: ignore[no-untyped-call]

    layers = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [layer.register_forward_hook(after) for layer in layers]

    def end() -> None:
        for handle in handles:
            handle.remove()

    return end
