"""A small network that sharpens one mask on the pixels around it (FocalClick, section 3.2).

The decoder's masks have the resolution of the network's frame, where a wheel is a few cells wide.
The refiner reads the rectangle of the original image around the mask, scaled to `VIEW` pixels a
side, the annotator's clicks and box, and the decoder's finest map of that rectangle. It returns
what to add to the mask's logits. It knows no names. Its last layer starts at zero: an untrained
refiner changes nothing, bit for bit.
Legend: n views, V = `VIEW`, F channels of the decoder's finest map (0 where it has none).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """1 in a disk around every click that does not belong to it."""
    BOX = 7
    """1 inside the annotator's box, -1 outside; 0 everywhere if there is none."""


class MaskRefiner(nn.Module):
    """Maps views of masks to logits that are added to the masks."""

    def __init__(self, fine_width: int = 0, trunk_widths: Sequence[int] = ()) -> None:
        """Builds an untrained refiner, which adds zeros.

        Args:
            fine_width: F.
            trunk_widths: channels of the photo trunk's four maps of a view; () reads no maps.
        """
        super().__init__()
        first, second, third, fourth = _WIDTHS
        self.read = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(_NORM_GROUPS, width))
            for channels, width in zip(trunk_widths, _WIDTHS, strict=bool(trunk_widths))
        )
        self.alike = nn.ModuleList(nn.Conv2d(1, width, 1) for width in _WIDTHS[: len(self.read)])
        self.stem = convolution(4 * len(Plane) + fine_width, first)
        self.down = nn.ModuleList(
            (
                nn.Sequential(RefinerResidual(first)),
                nn.Sequential(convolution(first, second, stride=2), RefinerResidual(second)),
                nn.Sequential(convolution(second, third, stride=2), RefinerResidual(third)),
                nn.Sequential(
                    convolution(third, fourth, stride=2),
                    RefinerResidual(fourth),
                    RefinerResidual(fourth),
                ),
            )
        )
        self.narrow = nn.ModuleList(
            nn.Conv2d(wide, thin, 1) for thin, wide in zip(_WIDTHS[:-1], _WIDTHS[1:], strict=True)
        )
        self.up = nn.ModuleList(RefinerResidual(width) for width in _WIDTHS[:-1])
        self.spread = nn.Conv2d(first, 4 * _EDGE_WIDTH, 1)
        self.edge = nn.Sequential(
            convolution(_EDGE_WIDTH + len(Plane), _EDGE_WIDTH),
            nn.Conv2d(_EDGE_WIDTH, 1, 3, padding=1),
        )
        self.reset()
        last_channels(self)

    @property
    def reads_maps(self) -> bool:
        """Whether it reads the photo trunk's maps."""
        return bool(self.read)

    def reset(self) -> None:
        """Zeroes the last layer: the refiner adds nothing."""
        last = cast(nn.Conv2d, self.edge[-1])
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    def forward(self, views: Tensor, fine: Tensor, maps: Sequence[Tensor] = ()) -> Tensor:
        """Returns (n, V, V) to add to the logits.

        Args:
            views: (n, planes, V, V), see `Plane`.
            fine: (n, F, V/2, V/2) the decoder's finest map of the same rectangles.
            maps: the photo trunk's four maps of the same rectangles: (n, C, V/2, V/2), and three of
                half, a quarter and an eighth of that side; () where the refiner reads no maps.
        """
        x = torch.cat((functional.pixel_unshuffle(views, 2), fine), 1)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        pointed = _sure_pixels(views) if self.read else views[:, :0]
        kept: list[Tensor] = []
        for level, stage in enumerate(self.down):
            if self.read:
                # The first part of a stage halves the side; the maps come in behind it.
                steps = list(cast(nn.Sequential, stage))
                trunk_map = self.read[level](maps[level])
                trunk_map = trunk_map + self.alike[level](_similarity(trunk_map, pointed))
                x = (steps.pop(0)(x) if level else x) + trunk_map
                for step in steps:
                    x = step(x)
            else:
                x = stage(x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = functional.interpolate(self.narrow[level](x), scale_factor=2, mode="nearest")
            x = self.up[level](x + kept[level])
        fine = functional.pixel_shuffle(self.spread(x), 2)
        return cast(Tensor, self.edge(torch.cat((fine, views), 1))[:, 0])


def _sure_pixels(views: Tensor) -> Tensor:
    """Weights (n, 1, V, V), of sum 1, of the pixels that are most surely inside the mask.

    Positive clicks weigh most, then the earlier mask, then the mask to sharpen, then the box.
    """
    weight = (
        views[:, Plane.POSITIVE]
        + 0.1 * views[:, Plane.PREVIOUS].clamp(min=0)
        + 0.05 * views[:, Plane.COARSE].clamp(min=0)
        + 0.01 * views[:, Plane.BOX].clamp(min=0)
        + 1e-6
    )[:, None]
    return weight / weight.sum((2, 3), keepdim=True)


def _similarity(seen: Tensor, pointed: Tensor) -> Tensor:
    """Cosine (n, 1, h, w) of every cell of (n, C, h, w) with the weighted mean of the cells."""
    weight = functional.adaptive_avg_pool2d(pointed, seen.shape[-1])
    weight = weight / weight.sum((2, 3), keepdim=True)
    wanted = functional.normalize((seen * weight).sum((2, 3), keepdim=True), dim=1)
    return (functional.normalize(seen, dim=1) * wanted).sum(1, keepdim=True)


class RefinerResidual(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width)
        self.second = convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, width, H, W) to the same shape."""
        return cast(Tensor, x + self.second(self.first(x)))


def last_channels(module: nn.Module) -> None:
    """Stores weights of convolutions channels last, which makes them a third faster on CPUs."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def convolution(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Returns a 3x3 convolution with group norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_NORM_GROUPS, outputs),
        nn.ReLU(),
    )
