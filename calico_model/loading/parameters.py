"""What every part of the network weighs in numbers, counted on a model without memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calico_model.config import CalicoConfig
from calico_model.modeling.model import Calico
from calico_model.presets import full

# Rows of the table: a name and the modules of `Calico` behind it. LoRA is taken out of "LLM".
_ROWS = (
    ("LLM", ("language",)),
    ("LoRA", ()),
    ("EVA-CLIP", ("eva",)),
    ("Q-Former", ("qformer",)),
    ("queries and f_image", ("query_tokens", "image_projection")),
    ("SAM encoder", ("sam_encoder",)),
    ("SAM decoder", ("mask_decoder",)),
    ("f_segmentation", ("segmentation_projection",)),
    ("DINOv2", ("dino",)),
    ("CEM and CAMs", ("cem", "cams")),
    ("shared trunk", ("trunk",)),
)
# Millions of parameters of CALICO-7B as measured on its public parts; the paper gives LoRA's rank
# and the trainable share alone.
PUBLISHED = {
    "LLM": 6738.5,
    "LoRA": 4.194304,
    "EVA-CLIP": 986.0,
    "Q-Former": 105.1,
    "queries and f_image": 3.17,
    "SAM encoder": 637.0,
    "SAM decoder": 4.06,
    "f_segmentation": 17.8,
    "DINOv2": 86.6,
    "CEM and CAMs": 18.7,
}


@dataclass(frozen=True)
class PartCount:
    """One row of the parameter table.

    Attributes:
        part: its name.
        parameters: numbers in it.
        published: millions in the released parts of the 7B, None where nothing is known.
    """

    part: str
    parameters: int
    published: float | None


def blank_model(config: CalicoConfig, *, dtype: torch.dtype = torch.float32) -> Calico:
    """Builds the network on the meta device: all shapes, no memory, no values."""
    with torch.device("meta"):
        return Calico(config).to(dtype)


def part_of(name: str) -> str:
    """Names the row of the table that a parameter or buffer of `Calico` belongs to."""
    if ".lora_" in name:
        return "LoRA"
    module = name.partition(".")[0]
    return next(row for row, modules in _ROWS if module in modules)


def by_part(model: Calico) -> dict[str, list[tuple[str, Tensor]]]:
    """Groups parameters, and buffers a checkpoint holds, by row; empty rows are left out."""
    found: dict[str, list[tuple[str, Tensor]]] = {row: [] for row, _ in _ROWS}
    for name, tensor in model.state_dict().items():
        found[part_of(name)].append((name, tensor))
    return {row: tensors for row, tensors in found.items() if tensors}


def parameter_table(config: CalicoConfig) -> tuple[PartCount, ...]:
    """Counts the parameters of each part; the published ones stand beside a 7B."""
    parameters: dict[str, int] = dict.fromkeys((row for row, _ in _ROWS), 0)
    for name, parameter in blank_model(config).named_parameters():
        parameters[part_of(name)] += parameter.numel()
    published = PUBLISHED if replace(config, name="") == full(name="") else {}
    return tuple(
        PartCount(row, count, published.get(row)) for row, count in parameters.items() if count
    )
