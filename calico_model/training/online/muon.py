"""Muon: an optimiser of weight matrices for heads that have only seconds to learn.

A gradient of a convolution has a few large directions and many small ones, and Adam keeps following
the large ones. Muon replaces the gradient by the nearest matrix whose directions all have the same
length (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): then every direction is
learned in few steps. Norms, biases and class rows have no directions to balance; AdamW learns them.

`torch.optim.Muon` takes matrices alone and computes in bfloat16, which most processors of laptops
only emulate. This optimiser takes convolutions and computes in float32 where that is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from calico_model.loading.placement import is_fast_in_half

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of a step of the iteration, from the reference: steepest at 0."""
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of the gradient, with decoupled weight decay.

    As in the reference: Nesterov momentum, and a step of a tall matrix is longer by the root of its
    aspect.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        rate: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.05,
    ) -> None:
        """Takes parameters of two or more dimensions; a convolution is (outputs, all inputs).

        Args:
            matrices: leaf tensors that learn.
            rate: learning rate; about the relative change of the weights in one step.
            momentum: share of the earlier gradients in [0, 1).
            weight_decay: pull towards 0, per step and unit of the rate.

        Raises:
            ValueError: a parameter has fewer than two dimensions.
        """
        defaults = {"lr": rate, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, defaults)
        shapes = [tuple(p.shape) for group in self.param_groups for p in group["params"]]
        if flat := [shape for shape in shapes if len(shape) < 2]:
            raise ValueError(f"matrices: expected two or more dimensions, got shapes {flat}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Makes one step of every parameter with a gradient.

        Args:
            closure: computes loss and gradients first.

        Returns:
            What the closure returned, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                kept = self.state[weight]
                if "momentum" not in kept:
                    kept["momentum"] = torch.zeros_like(weight.grad)
                kept["momentum"].lerp_(weight.grad, 1 - momentum)
                direction = weight.grad.lerp(kept["momentum"], momentum)
                change = orthogonalised(direction.flatten(1))
                rows, columns = change.shape
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(change.view_as(weight), alpha=-rate * max(1.0, rows / columns) ** 0.5)
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """Returns about the nearest matrix whose singular values are all 1 (from 0.7 to 1.2).

    Args:
        matrix: (R, C) float; of zeros alone it stays zeros.

    Returns:
        (R, C) of the same dtype.
    """
    dtype = torch.bfloat16 if is_fast_in_half(matrix.device) else torch.float32
    x = matrix.to(dtype)
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if is_tall else x).to(matrix.dtype)
