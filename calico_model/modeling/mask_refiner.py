"""A small network that sharpens one mask on the pixels around it (FocalClick, section 3.2).

The decoder's masks have the resolution of the network's frame, where a wheel is a few cells wide.
The refiner sees the mask's own rectangle of the original image, at `VIEW` pixels a side, together
with what the annotator pointed at and the finest map that the decoder has of that place, and says
what to add to the mask's logits. It has not heard of names. Its last layer starts at zero: an
untrained refiner changes nothing, bit for bit.
Legend: n views, V = `VIEW`, F channels of the decoder's finest map (0 where it has none).
"""

from __future__ import annotations

from enum import IntEnum
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

VIEW = 128
"""Side of a view in pixels."""
_WIDTHS = (32, 64, 96, 128)  # at V/2, V/4, V/8, V/16
_EDGE_WIDTH = 16  # at V
_NORM_GROUPS = 8


class Plane(IntEnum):
    """Channels of a view."""

    RED = 0
    GREEN = 1
    BLUE = 2
    COARSE = 3
    """The mask to sharpen: its logits / `LIMIT`, in [-1, 1]."""
    PREVIOUS = 4
    """The mask the annotator corrects: 1 inside, -1 outside; 0 everywhere if there is none."""
    POSITIVE = 5
    """1 in a disk around every click that belongs to the mask."""
    NEGATIVE = 6
    """1 in a disk around every click that does not."""
    BOX = 7
    """1 inside the annotator's box, -1 outside; 0 everywhere if there is none."""


class MaskRefiner(nn.Module):
    """Views to what is added to the mask's logits."""

    def __init__(self, fine_width: int = 0) -> None:
        """Builds a silent one; `fine_width` is F."""
        super().__init__()
        first, second, third, fourth = _WIDTHS
        self.stem = convolution(4 * len(Plane) + fine_width, first)
        self.down = nn.ModuleList(
            (
                nn.Sequential(Residual(first)),
                nn.Sequential(convolution(first, second, stride=2), Residual(second)),
                nn.Sequential(convolution(second, third, stride=2), Residual(third)),
                nn.Sequential(
                    convolution(third, fourth, stride=2), Residual(fourth), Residual(fourth)
                ),
            )
        )
        self.narrow = nn.ModuleList(
            nn.Conv2d(wide, thin, 1) for thin, wide in zip(_WIDTHS[:-1], _WIDTHS[1:], strict=True)
        )
        self.up = nn.ModuleList(Residual(width) for width in _WIDTHS[:-1])
        self.spread = nn.Conv2d(first, 4 * _EDGE_WIDTH, 1)
        self.edge = nn.Sequential(
            convolution(_EDGE_WIDTH + len(Plane), _EDGE_WIDTH),
            nn.Conv2d(_EDGE_WIDTH, 1, 3, padding=1),
        )
        self.reset()
        last_channels(self)

    def reset(self) -> None:
        """Makes the refiner silent: it adds nothing."""
        last = cast(nn.Conv2d, self.edge[-1])
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    def forward(self, views: Tensor, fine: Tensor) -> Tensor:
        """Returns (n, V, V) to add to the logits.

        Args:
            views: (n, planes, V, V), see `Plane`.
            fine: (n, F, V/2, V/2) of the same places.
        """
        x = torch.cat((functional.pixel_unshuffle(views, 2), fine), 1)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        kept: list[Tensor] = []
        for stage in self.down:
            x = stage(x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = functional.interpolate(self.narrow[level](x), scale_factor=2, mode="nearest")
            x = self.up[level](x + kept[level])
        fine = functional.pixel_shuffle(self.spread(x), 2)
        return cast(Tensor, self.edge(torch.cat((fine, views), 1))[:, 0])


class Residual(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width)
        self.second = convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, ., .) to the same."""
        return cast(Tensor, x + self.second(self.first(x)))


def last_channels(module: nn.Module) -> None:
    """Lays weights out as CPUs like them: convolutions are a third faster."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def convolution(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """3 x 3, normalised in groups of channels, rectified."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_NORM_GROUPS, outputs),
        nn.ReLU(),
    )
