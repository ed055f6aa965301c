"""How every row of an ablation begins: copied encoders, a new language side, known mask prompts.

The vision side is copied from finished weights and frozen, all but SAM's mask decoder, which the
paper trains too. Every other parameter is drawn from a generator that its own name seeds, so that
leaving a part out does not change the first values of the parts that stay.

A language side from scratch would first have to find the mask decoder's prompts by trial. As in the
training of calico-tiny, each [SEG] token is pulled towards the sum of a part's and a category's
entry in a dictionary, which is fitted to the finished weights once for all rows.

Legend: K [SEG] tokens, C prompt width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from calico_model.config import LoraConfig
from calico_model.data.catalogue import TRAINED_CATEGORIES
from calico_model.loading.checkpoints import read_tensors
from calico_model.modeling.adapter import base_state
from calico_model.modeling.correspondence import ContextAwareModule
from calico_model.modeling.model import Calico
from calico_model.training.pretraining.batches import WHOLE, TrainingBatch
from research.ablation.plan import AblationRow, Start

_VISION = ("trunk.", "eva.", "dino.", "sam_encoder.", "mask_decoder.")
_TRAINED_VISION = "mask_decoder.mask_decoder."
_INJECTION = ("cem.", "cams.")
_GAIN = 0.8
_SHIFT_GAIN = 0.02
_RIDGE = 1.0


def build_row(base: Calico, row: AblationRow, *, seed: int, start: Start) -> Calico:
    """Builds the untrained model of one row.

    Whatever the row, the model answers as a model without injection does: CEM's output and the
    last linear map of each CAM are zero. The first map of a CAM is small instead of zero, because
    without CEM two zero maps would stay zero for ever: the gradient of each is a multiple of the
    other.

    Args:
        base: finished weights, on the CPU.
        row: the parts the model has.
        seed: of all values that are not copied.
        start: `LANGUAGE` copies the language side too, except CEM and CAMs.

    Returns:
        The model in evaluation mode; exactly the parameters that learn require gradients.
    """
    model = Calico(
        replace(base.config, lora=LoraConfig(rank=0), ablation=row.switches, cams=row.cams)
    ).eval()
    initialise_by_name(model, seed)
    if model.cem is not None:
        model.cem.reset()
    for cam in model.cams:
        _start_cam(cast(ContextAwareModule, cam))
    finished = base_state(base)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith(_VISION) or (
                start is Start.LANGUAGE and _is_copied(name, tensor, finished.get(name))
            ):
                tensor.copy_(finished[name])
    for name, parameter in model.named_parameters():
        is_frozen = name.startswith(_VISION) and not name.startswith(_TRAINED_VISION)
        parameter.requires_grad_(not is_frozen)
    return model


@torch.no_grad()
def initialise_by_name(module: nn.Module, seed: int) -> None:
    """Draws every matrix with std gain/sqrt(fan_in) from a generator seeded by its name.

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


def _is_copied(name: str, tensor: Tensor, finished: Tensor | None) -> bool:
    """Whether a tensor of the language side begins as in the finished weights."""
    is_injection = name.startswith(_INJECTION)
    return not is_injection and finished is not None and finished.shape == tensor.shape


@dataclass(frozen=True)
class PartDictionary:
    """Mask prompts as sums of two entries: one of the part, one of the category.

    Attributes:
        parts: (P + 1, C) float32, by part index; the last entry is the whole object.
        categories: (Y, C) float32, by category index.
    """

    parts: Tensor
    categories: Tensor

    def save(self, path: Path) -> None:
        """Writes the entries as safetensors: staged, then renamed."""
        staged = path.with_suffix(".tmp")
        save_file({"parts": self.parts, "categories": self.categories}, staged)
        staged.rename(path)

    @classmethod
    def from_file(cls, path: Path) -> PartDictionary:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: the file cannot be read.
        """
        tensors = read_tensors(path)
        return cls(tensors["parts"], tensors["categories"])


@torch.no_grad()
def fit_dictionary(
    model: Calico,
    batches: Iterable[TrainingBatch],
    *,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> PartDictionary:
    """Fits the entries to the prompts of finished weights by least squares.

    Args:
        model: the finished weights, in evaluation mode.
        batches: with features and turns; the true answers are teacher-forced.
        on_progress: called with the number of batches read.
    """
    width = WHOLE + 1 + len(TRAINED_CATEGORIES)
    gram = torch.eye(width) * _RIDGE
    targets = torch.zeros(width, model.config.mask.prompt_width)
    for done, batch in enumerate(batches, start=1):
        assert batch.turns is not None
        assert batch.features is not None
        hidden, _ = model(batch.features, batch.turns.conversations)
        states = hidden[batch.turns.seg_row, batch.turns.seg_column][batch.segments]
        prompts = model.segmentation_projection(states).float()  # (K, C)
        indices = torch.stack((batch.masks.part, WHOLE + 1 + batch.masks.category))
        design = functional.one_hot(indices, width).sum(0).float()  # (K, P + 1 + Y)
        gram += design.T @ design
        targets += design.T @ prompts
        on_progress(done)
    entries = torch.linalg.solve(gram, targets).contiguous()
    return PartDictionary(entries[: WHOLE + 1].clone(), entries[WHOLE + 1 :].clone())
