"""Fills a Calico from released weights, tensor by tensor, each directly on its device.

The model starts without memory (meta device). Peak memory is the placed weights and one more
tensor, which is quantised on the way if the placement asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from calico_model.config import CalicoConfig
from calico_model.loading.placement import Placement, apply, put
from calico_model.loading.released.offers import part_of
from calico_model.loading.released.plan import (
    LoadingPlan,
    LoadingReport,
    canonical_shapes,
    make_plan,
)
from calico_model.modeling.correspondence import ContextAwareModule, CorrespondenceExtraction
from calico_model.modeling.model import Calico
from calico_model.presets import full
from calico_model.tokenizer import Tokenizer

# Model, name of one of its parameters or buffers, released tensor on the CPU, placement.
Put = Callable[[Calico, str, Tensor, Placement], None]


@dataclass(frozen=True)
class Released:
    """A model put together from released weights.

    Attributes:
        model: ready to predict.
        tokenizer: of its LLM.
        report: origin of each part, and which parts are untrained.
    """

    model: Calico
    tokenizer: Tokenizer
    report: LoadingReport


def load_released(
    folder: Path,
    *,
    base: CalicoConfig | None = None,
    placement: Placement | None = None,
    put: Put = put,
) -> Released:
    """Loads a folder of released checkpoints: a merged release, or one entry per public part.

    Args:
        folder: the checkpoints, in it or up to two levels below.
        base: configuration of what shapes do not determine; CALICO-7B by default.
        placement: device and precision of each part; float32 on the CPU by default.
        put: puts one tensor into the model.

    Raises:
        CheckpointError: as `make_plan` and `LoadingPlan.read`; there is no half-loaded model.
    """
    plan = make_plan(folder, base or full())
    model = fill(plan, placement or Placement(), put)
    return Released(model, plan.tokenizer.tokenizer, plan.report)


def fill(plan: LoadingPlan, placement: Placement, put: Put = put) -> Calico:
    """Builds the model of a plan and fills it, part by part and file by file.

    Raises:
        CheckpointError: damaged file or values that are not finite.
    """
    with torch.device("meta"):
        model = Calico(plan.config)
    names = {name.replace(".base_layer.", "."): name for name in model.state_dict()}
    order = sorted(
        plan.recipes, key=lambda n: (part_of(n), plan.recipes[n][0].source.file(_key(plan, n)))
    )
    with torch.no_grad():
        for name in order:
            put(model, names[name], plan.read(name), placement)
        for name, tensor in _untrained(plan, model):
            put(model, names[name], tensor, placement)
        _restore_rotary(model, placement.place("language")[0])
    apply(model, placement)
    left = [n for n, t in chain(model.named_parameters(), model.named_buffers()) if t.is_meta]
    assert not left, left
    return model.eval().requires_grad_(False)


def _key(plan: LoadingPlan, name: str) -> str:
    return plan.recipes[name][0].key


def _untrained(plan: LoadingPlan, model: Calico) -> Iterator[tuple[str, Tensor]]:
    """Yields initial values of the tensors without a release; always the same values."""
    shapes = canonical_shapes(model)
    missing = [name for name in shapes if name not in plan.recipes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part, names in groupby(missing, part_of):
            fresh = _fresh_module(part, plan.config)
            initial = {} if fresh is None else fresh.state_dict(prefix=f"{part}.")
            for name in names:
                yield name, initial[name] if initial else _starting_value(name, shapes[name])


def _fresh_module(part: str, config: CalicoConfig) -> nn.Module | None:
    width = config.language.width
    if part == "cem":
        return CorrespondenceExtraction(config)
    if part == "cams":
        cams = (ContextAwareModule(width, config.qformer.width) for _ in range(config.cams))
        return nn.ModuleList(cams)
    if part == "segmentation_projection":
        narrow = nn.Linear(width, config.mask.prompt_width)
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), narrow)
    return None


def _starting_value(name: str, shape: tuple[int, ...]) -> Tensor:
    value = torch.zeros(shape)
    # LoRA as peft starts it: the first matrix random, the second zero.
    return nn.init.kaiming_uniform_(value, a=math.sqrt(5)) if ".lora_A." in name else value


def _restore_rotary(model: Calico, device: torch.device) -> None:
    """Computes the rotary frequencies, which no checkpoint holds."""
    language = model.language.model
    language.rotary_emb = type(language.rotary_emb)(model.language.config).to(device)


def released_fingerprint(folder: Path, base: CalicoConfig | None = None) -> str:
    """Returns a sha256 over the released tensors of a folder, by canonical name.

    The same weights have the same fingerprint however they are cut into files.

    Raises:
        CheckpointError: as `load_released`.
    """
    plan = make_plan(folder, base or full())
    digest = sha256()
    for name in sorted(plan.recipes):
        tensor = plan.read(name).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
