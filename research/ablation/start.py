"""Where every row of an ablation begins: the same eyes, and a language side that is new.

The vision side is copied from finished weights and frozen, all but SAM's mask decoder, which the
paper trains too. Every other number is drawn from a generator seeded by its own name, so that
leaving a part out does not move the first values of the parts that stay.
"""

from __future__ import annotations

import math
from dataclasses import replace
from hashlib import sha256
from typing import cast

import torch
from torch import Tensor, nn

from calico_model.config import LoraConfig
from calico_model.modeling.adapter import base_state
from calico_model.modeling.correspondence import ContextAwareModule
from calico_model.modeling.model import Calico
from research.ablation.plan import Start
from research.ablation.rows import Row

_VISION = ("trunk.", "eva.", "dino.", "sam_encoder.", "mask_decoder.")
_TRAINED_VISION = "mask_decoder.mask_decoder."
_INJECTION = ("cem.", "cams.")
_GAIN = 0.8
_SHIFT_GAIN = 0.02


def build_row(base: Calico, row: Row, *, seed: int, start: Start) -> Calico:
    """Builds the untrained model of one row.

    It answers as a model without injection does, whatever the row: CEM's output and the last map
    of each CAM are zero. The first map of a CAM is small instead of zero, because without CEM two
    zero maps would stay zero for ever: each is the other's gradient.

    Args:
        base: finished weights, on the CPU.
        row: which parts the model has.
        seed: of all values that are not copied.
        start: `LANGUAGE` copies the language side too, all but CEM and CAMs.

    Returns:
        The model in evaluation mode; what learns requires gradients, what is frozen does not.
    """
    model = Calico(
        replace(base.config, lora=LoraConfig(rank=0), ablation=row.switches, cams=row.cams)
    ).eval()
    initialise_by_name(model, seed)
    if model.cem is not None:
        model.cem.reset()
    for cam in model.cams:
        _start_cam(cast(ContextAwareModule, cam))
    given = base_state(base)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith(_VISION) or (
                start is Start.LANGUAGE and _fits(name, tensor, given.get(name))
            ):
                tensor.copy_(given[name])
    for name, parameter in model.named_parameters():
        is_frozen = name.startswith(_VISION) and not name.startswith(_TRAINED_VISION)
        parameter.requires_grad_(not is_frozen)
    return model


@torch.no_grad()
def initialise_by_name(module: nn.Module, seed: int) -> None:
    """Draws every matrix with std gain/sqrt(fan_in) from a generator of its own name.

    Norms start at one, biases at zero, as `backbones.initialise_from_scratch` leaves them.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            digest = sha256(f"{seed}:{name}".encode()).digest()
            rng = torch.Generator().manual_seed(int.from_bytes(digest[:6]))
            parameter.normal_(std=_GAIN / math.sqrt(parameter[0].numel()), generator=rng)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


@torch.no_grad()
def _start_cam(cam: ContextAwareModule) -> None:
    cam.adaptation.weight.mul_(_SHIFT_GAIN / _GAIN)
    nn.init.zeros_(cam.reintegration.weight)
    nn.init.zeros_(cam.reintegration.bias)


def _fits(name: str, own: Tensor, given: Tensor | None) -> bool:
    is_injection = name.startswith(_INJECTION)
    return not is_injection and given is not None and given.shape == own.shape
