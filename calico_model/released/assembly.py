"""Fills a Calico from released weights, tensor by tensor, each straight to its place.

The model begins without memory (meta device); at any moment there is what was placed so far and
one tensor more. Who wants other devices, dtypes or compressed matrices passes `place` and `put`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from calico_model.config import CalicoConfig
from calico_model.modeling.correspondence import ContextAwareModule, CorrespondenceExtraction
from calico_model.modeling.model import Calico
from calico_model.presets import full
from calico_model.released.offers import LORA, part_of
from calico_model.released.plan import VOCABULARY, Plan, Report, canonical_shapes, make_plan
from calico_model.tokenizer import Tokenizer

_ALWAYS_FLOAT32 = ("mask_decoder",)


@dataclass(frozen=True)
class Placement:
    """Where a part goes and in which numbers."""

    device: torch.device
    dtype: torch.dtype


# Part name (a child of `Calico`, or `lora`) -> its placement.
Place = Callable[[str], Placement]
# Model, name of one of its parameters or buffers, released tensor on the CPU, placement.
Put = Callable[[Calico, str, Tensor, Placement], None]


@dataclass(frozen=True)
class Released:
    """A model put together from released weights.

    Attributes:
        model: ready to predict.
        tokenizer: of its LLM.
        report: what came from where, what is untrained.
    """

    model: Calico
    tokenizer: Tokenizer
    report: Report


def uniform_placement(device: str | torch.device, dtype: torch.dtype) -> Place:
    """One device and dtype for all parts; the mask decoder is float32 whatever `dtype` says."""

    def place(part: str) -> Placement:
        return Placement(torch.device(device), torch.float32 if part in _ALWAYS_FLOAT32 else dtype)

    return place


def load_released(
    folder: Path,
    *,
    base: CalicoConfig | None = None,
    place: Place | None = None,
    put: Put | None = None,
) -> Released:
    """Loads a folder of released checkpoints: a merged release, or one entry per public part.

    Args:
        folder: the checkpoints, in it or up to two levels below.
        base: for what no shape tells; CALICO-7B by default.
        place: where each part goes; float32 on the CPU by default.
        put: puts one tensor into the model; `put_tensor` by default.

    Raises:
        CheckpointError: as `make_plan` and `Plan.read`; there is no half-loaded model.
    """
    plan = make_plan(folder, base or full())
    model = fill(plan, place or uniform_placement("cpu", torch.float32), put or put_tensor)
    return Released(model, plan.tokenizer.tokenizer, plan.report)


def fill(plan: Plan, place: Place, put: Put) -> Calico:
    """Builds the model of a plan and fills it, part by part and file by file.

    Raises:
        CheckpointError: damaged file or values that are not finite.
    """
    with torch.device("meta"):
        model = Calico(plan.config)
    own = {name.replace(".base_layer.", "."): name for name in model.state_dict()}
    order = sorted(
        plan.recipes, key=lambda n: (part_of(n), plan.recipes[n][0].source.file(_key(plan, n)))
    )
    with torch.no_grad():
        for name in order:
            put(model, own[name], plan.read(name), place(part_of(name)))
        for name, tensor in _untrained(plan, model):
            put_tensor(model, own[name], tensor, place(part_of(name)))
        _restore_rotary(model, place("language").device)
    left = [n for n, t in chain(model.named_parameters(), model.named_buffers()) if t.is_meta]
    assert not left, left
    return model.eval().requires_grad_(False)


def _key(plan: Plan, name: str) -> str:
    return plan.recipes[name][0].key


def put_tensor(model: Calico, name: str, tensor: Tensor, placement: Placement) -> None:
    """Replaces one parameter or buffer by a copy of `tensor`.

    Embedding and head may be given with fewer rows than the model has: the others become their
    mean, which no token is ever closer to than to its own row.
    """
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    dtype = placement.dtype if tensor.is_floating_point() else tensor.dtype
    held = cast(Tensor, getattr(module, leaf))
    value = torch.empty(held.shape, dtype=dtype, device=placement.device)
    value[: len(tensor)].copy_(tensor)
    if len(tensor) < len(value) and name in VOCABULARY:
        value[len(tensor) :] = tensor.mean(0, dtype=torch.float32).to(value)
    if leaf in module._parameters:
        module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    else:
        module.register_buffer(leaf, value)


def _untrained(plan: Plan, model: Calico) -> list[tuple[str, Tensor]]:
    """Starting values of what was not released; the same for the same weights."""
    shapes = canonical_shapes(model)
    missing = [name for name in shapes if name not in plan.recipes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = _fresh_modules(plan.config)
        return [(name, _starting_value(name, shapes[name], fresh)) for name in missing]


def _fresh_modules(config: CalicoConfig) -> dict[str, nn.Module]:
    width = config.language.width
    return {
        "cem": CorrespondenceExtraction(config),
        "cams": nn.ModuleList(
            ContextAwareModule(width, config.qformer.width) for _ in range(config.cams)
        ),
        "segmentation_projection": nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.mask.prompt_width)
        ),
    }


def _starting_value(name: str, shape: tuple[int, ...], fresh: dict[str, nn.Module]) -> Tensor:
    part, _, rest = name.partition(".")
    if part_of(name) == LORA:
        value = torch.zeros(shape)
        # As peft does: the first matrix random, the second zero.
        return nn.init.kaiming_uniform_(value, a=math.sqrt(5)) if ".lora_A." in name else value
    if part in fresh:
        return cast(Tensor, fresh[part].state_dict()[rest])
    return torch.zeros(shape)


def _restore_rotary(model: Calico, device: torch.device) -> None:
    """Computes the one buffer no checkpoint holds."""
    language = model.language.model
    language.rotary_emb = type(language.rotary_emb)(model.language.config).to(device)


def released_fingerprint(folder: Path, base: CalicoConfig | None = None) -> str:
    """Returns a sha256 over the released tensors a folder gives, by our names.

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
