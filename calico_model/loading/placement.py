"""Device and precision of each part of the network, and how a model is moved there.

Knows modules and devices. What fits where is decided in fitting.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from calico_model.loading.precision import Precision
from calico_model.loading.quantisation import is_quantised, put_quantised, quantise
from calico_model.modeling.model import Calico

ENCODERS = ("trunk", "eva", "dino", "sam_encoder")
_FLOAT32_PARTS = ("mask_decoder",)


@dataclass(frozen=True)
class Placement:
    """Device and precision of every part.

    Attributes:
        precision: of the weights.
        device: where the LLM and the decoder run.
        are_encoders_offloaded: the encoders run on the CPU; only their features go to `device`.
        images_at_once: images the encoders see together.
    """

    precision: Precision = Precision.FP32
    device: str = "cpu"
    are_encoders_offloaded: bool = False
    images_at_once: int = 8

    def place(self, name: str) -> tuple[torch.device, torch.dtype]:
        """Returns device and dtype of a module or parameter of `Calico`, by its dotted name.

        The dtype of a matrix that is quantised is the one it is computed in.
        """
        part = name.partition(".")[0]
        is_away = self.are_encoders_offloaded and part in ENCODERS
        is_wide = self.precision is Precision.FP32 or part in _FLOAT32_PARTS
        return (
            torch.device("cpu" if is_away else self.device),
            torch.float32 if is_wide else torch.bfloat16,
        )


def put(model: Calico, name: str, tensor: Tensor, placement: Placement) -> None:
    """Puts one tensor of a checkpoint into a model, on its device, quantised on the way if asked.

    Streaming a checkpoint this way needs memory for one tensor beside the placed model.

    Args:
        model: may be on the meta device; shapes have been checked.
        name: of a parameter or buffer of `model`.
        tensor: its values, on the CPU.
        placement: gives device and precision.
    """
    device, dtype = placement.place(name)
    if tensor.is_floating_point():
        tensor = tensor.to(dtype)
    if placement.precision.is_quantised and is_quantised(name):
        put_quantised(model, name, tensor, placement.precision, device)
        return
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if attribute in module._parameters:
        module.register_parameter(attribute, nn.Parameter(tensor.to(device), requires_grad=False))
    else:
        module.register_buffer(attribute, tensor.to(device))


def apply(model: Calico, placement: Placement) -> Calico:
    """Moves a model to its devices, in place; encoders then convert their inputs and outputs.

    Tensors placed by `put` are there already. Tables that are computed rather than loaded (rotary
    frequencies) stay float32.
    """
    loaded = model.state_dict().keys()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        device, dtype = placement.place(name)
        is_cast = name in loaded and tensor.is_floating_point()
        tensor.data = tensor.data.to(device, dtype if is_cast else tensor.dtype)
    quantise(model, placement.precision)
    _bridge(model, placement)
    return model


def _bridge(model: Calico, placement: Placement) -> None:
    """Hooks each encoder to convert its inputs, and to move its output to the main device."""
    home, _ = placement.place("language")
    for part in ENCODERS:
        encoder = getattr(model, part)
        if encoder is None:
            continue
        device, dtype = placement.place(part)
        encoder.register_forward_pre_hook(_converting(device, dtype), with_kwargs=True)
        encoder.register_forward_hook(lambda _module, _given, output: send_to_device(output, home))


def _converting(
    device: torch.device, dtype: torch.dtype
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[Any, Any]]:
    def convert(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        return (
            tuple(value.to(device, dtype) for value in args),
            {name: value.to(device, dtype) for name, value in kwargs.items()},
        )

    return convert


def is_fast_in_half(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively."""
    if device.type != "cpu":
        return True
    can = torch.cpu.get_capabilities()
    return bool(can.get("amx_bf16") or can.get("avx512_bf16"))
