"""Small random networks of the real classes, saved in the hub's layout."""

from __future__ import annotations

import numpy as np
import torch

from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.sources.registry import open_source, read_choices

SIZES = [(64, 96), (120, 90), (30, 30), (301, 57)]
PROMPTS = {
    "a click": MaskPrompt((Click(20.0, 20.0),)),
    "two clicks": MaskPrompt((Click(20.0, 20.0), Click(5.5, 28.0, is_positive=False))),
    "a box": MaskPrompt(box=(5.0, 8.0, 27.0, 25.0)),
    "a box and a click": MaskPrompt((Click(13.0, 20.0),), (5.0, 8.0, 27.0, 25.0)),
}


def randomise(model, seed=0):
    """Gives every tensor random values of a size at which each of them changes the answer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() > 1:
                fan_in = tensor.numel() // tensor.shape[0]
                tensor.copy_(noise * 1.5 / max(fan_in, 1) ** 0.5)
            else:
                tensor.add_(noise * 0.2)
    return model.eval()


def picture(height=64, width=96, seed=1):
    """An (H, W, 3) uint8 image of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def opened(folder, name=None):
    """The source in a folder, under the folder's name or a known one."""
    entry = str(folder) if name is None else f"{name}={folder}"
    return open_source(read_choices([entry], folder.parent)[0])


def wants_several(prompt):
    """Whether SAM's authors ask for masks of several sizes: for a lone click."""
    return len(prompt.clicks) == 1 and prompt.box is None
