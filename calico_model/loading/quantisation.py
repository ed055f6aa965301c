"""8 and 4 bit matrices for the LLM's layers; nothing else of CALICO is ever quantised.

On a GPU, and for nf4 everywhere, `bitsandbytes` does the work; int8 on a CPU uses the kernel torch
ships. Embeddings, head, norms, LoRA and every other part stay as they are.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import Tensor, nn

from calico_model.errors import InvalidConfigError
from calico_model.loading.precision import Precision
from calico_model.modeling.model import Calico

_LAYERS = "language.model.layers."
_INT8_LIMIT = 127.0
# Columns of activations beyond this are multiplied in 16 bits (Dettmers et al. 2022, section 3.2).
_OUTLIER_THRESHOLD = 6.0


def is_quantised(name: str) -> bool:
    """Whether a parameter of `Calico` is one of the matrices that INT8 and NF4 compress."""
    return name.startswith(_LAYERS) and name.endswith(("_proj.weight", "_proj.base_layer.weight"))


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and one scale per output; activations are not quantised.

    Attributes:
        weight: (out, in) int8.
        scale: (out,) float32.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values = weight.detach().float()
        scale = values.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _INT8_LIMIT
        self.register_buffer("weight", (values / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        flat = x.reshape(-1, x.shape[-1])
        # torch's weight-only int8 product, also behind torchao; float32 and bfloat16.
        product = torch._weight_int8pack_mm(flat, self.weight, self.scale.to(x.dtype))
        return product.reshape(*x.shape[:-1], -1)


def quantised_linear(weight: Tensor, precision: Precision, device: torch.device) -> nn.Module:
    """Builds the layer that stands in for a bias-free `nn.Linear`.

    Args:
        weight: (out, in), of any float dtype, on any device; its dtype is computed in.
        precision: INT8 or NF4.
        device: where the layer goes.

    Raises:
        InvalidConfigError: `bitsandbytes` is needed and not installed.
    """
    if precision is Precision.INT8 and device.type == "cpu":
        return Int8Linear(weight).to(device)
    library = bitsandbytes(precision, device)
    rows, columns = weight.shape
    weight = weight.detach().cpu().contiguous()  # it is quantised on its way to the device
    if precision is Precision.INT8:
        layer = library.nn.Linear8bitLt(
            columns,
            rows,
            bias=False,
            has_fp16_weights=False,
            threshold=_OUTLIER_THRESHOLD,
            device="meta",
        )
        layer.weight = library.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        layer = library.nn.Linear4bit(
            columns, rows, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta"
        )
        layer.weight = library.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
    return cast(nn.Module, layer.to(device))


def check_kernels(precision: Precision, device: torch.device) -> None:
    """Makes sure, before anything is loaded, that a precision can be computed on a device.

    Raises:
        InvalidConfigError: `bitsandbytes` is needed and not installed.
    """
    if precision is Precision.NF4 or device.type != "cpu":
        bitsandbytes(precision, device)


def bitsandbytes(precision: Precision, device: torch.device) -> Any:
    """Imports the library behind 8 and 4 bit layers.

    Raises:
        InvalidConfigError: it is missing or does not load; the message says how to get it.
    """
    try:
        return importlib.import_module("bitsandbytes")
    except (ImportError, OSError, RuntimeError) as error:
        raise InvalidConfigError(
            f"precision: {precision} on {device.type} needs bitsandbytes: "
            f"pip install 'calico-labeling[gpu]' ({error})"
        ) from error


@torch.no_grad()
def quantise(model: Calico, precision: Precision) -> Calico:
    """Replaces the LLM's matrices in place, one at a time, on the device they are on.

    Matrices that are compressed already stay as they are.

    Args:
        model: a loaded model; LoRA may be around the layers and is left alone.
        precision: FP32 and BF16 change nothing.
    """
    if precision.is_quantised:
        # What was compressed on its way here is not a float any more.
        floats = [name for name, p in model.named_parameters() if p.is_floating_point()]
        for name in filter(is_quantised, floats):
            weight = model.get_parameter(name)
            put_quantised(model, name, weight, precision, weight.device)
    return model


def put_quantised(
    model: Calico, name: str, weight: Tensor, precision: Precision, device: torch.device
) -> None:
    """Puts one compressed matrix where `name` says, whatever layer was there (meta included)."""
    path = name.removesuffix(".weight")
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, quantised_linear(weight, precision, device))
