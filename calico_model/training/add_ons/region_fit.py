"""Fits the head that names a region by its words; everything else stays as it is.

One pass over drawn scenes describes every visible object and part, outlined exactly or a cell too
wide or too narrow, as predicted masks are; then a hidden layer is trained on the descriptors and
its temperature set on held-out scenes, so that its probabilities are calibrated. Takes minutes on
two cores, so it has no state to resume from, and its one-cycle rate is none of the engine's.
Legend: R regions, d width of a descriptor, W names, D the LLM's width.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from calico_model.data.describing import labeled_group
from calico_model.data.pool import ScenePool
from calico_model.errors import InvalidRecordError
from calico_model.inference.images import mask_shares, to_pixels
from calico_model.interactive.naming.closed_set import Fusion
from calico_model.interactive.naming.descriptors import unit_rows
from calico_model.interactive.naming.name_regions import words_of
from calico_model.loading.checkpoints import load_model, save_model
from calico_model.modeling.model import Calico
from calico_model.modeling.region_head import RegionHead, describe_regions
from calico_model.training.add_ons.fusion_fit import FusionEvidence, fit_fusion
from calico_model.training.add_ons.recipes import RegionRecipe
from calico_model.types import LabeledGroup, RegionKind

_LEAST_SPREAD = 1e-3
_TEMPERATURES = [0.25 * 1.1**n for n in range(31)]  # 0.25 to 4.4


@dataclass(frozen=True)
class RegionFit:
    """The outcome of a fit.

    Attributes:
        model: the new model folder.
        regions, names: numbers of regions and names it was fitted to.
        accuracy: percent of the held-out regions whose best name, of all, is right.
        temperature: divisor of the logits.
        fusion: weights of the head and of accepted regions (`closed_set.Fusion`).
    """

    model: Path
    regions: int
    names: int
    accuracy: float
    temperature: float
    fusion: Fusion


@dataclass(frozen=True, eq=False)
class _Regions:
    """Descriptors (R, d), and the name and scene of each."""

    described: Tensor
    names: list[str]
    scenes: Tensor


def fit_region_head(
    weights: Path,
    pool: Path,
    out: Path,
    recipe: RegionRecipe,
    *,
    on_progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> RegionFit:
    """Writes a copy of a model folder that has a fitted region head.

    Args:
        weights: model folder; a region head it has is replaced.
        pool: rendered scenes, `ScenePool`.
        out: the copy becomes out/model.
        recipe: numbers of the fit.
        on_progress: called with the stage, the steps done and all steps.

    Raises:
        CheckpointError: broken weights.
        InvalidRecordError: the pool holds no scenes, or too few to hold some out.
    """
    model, tokenizer = load_model(weights)
    torch.manual_seed(recipe.seed)
    head = model.region_head = RegionHead(model.config)
    regions = _describe(model, ScenePool(pool), recipe, on_progress)
    known = sorted(set(regions.names))
    words = torch.stack([words_of(model, tokenizer, name) for name in known])
    target = torch.tensor([known.index(name) for name in regions.names])
    is_kept = regions.scenes % round(1 / recipe.held_out) == 0
    if not bool(is_kept.any()) or bool(is_kept.all()):
        raise InvalidRecordError(f"{pool.name}: expected scenes to learn from and to hold out")
    head.centre.copy_(regions.described[~is_kept].mean(0))
    head.spread.copy_(regions.described[~is_kept].std(0).clamp(min=_LEAST_SPREAD))
    inputs = head.standardise([regions.described])
    _train(head, inputs[~is_kept], target[~is_kept], words, recipe, on_progress)
    temperature, accuracy = _calibrate(head, inputs[is_kept], target[is_kept], words)
    model.requires_grad_(False)
    kept = is_kept.nonzero()[:, 0]
    blocks = list(torch.split(regions.described[kept], list(head.widths), 1))
    fusion = fit_fusion(
        FusionEvidence(
            names=[regions.names[n] for n in kept.tolist()],
            scenes=regions.scenes[kept].numpy(),
            looks=unit_rows(blocks, head).numpy(),
            logits=head(inputs[kept], words).double().numpy(),
            known=known,
        ),
        recipe.seed,
    )
    shutil.rmtree(out / "model", ignore_errors=True)
    shutil.copytree(weights, out / "model")
    save_model(model, tokenizer, out / "model", dtype=torch.bfloat16)
    return RegionFit(out / "model", len(target), len(known), accuracy, temperature, fusion)


def true_regions(labeled: LabeledGroup) -> dict[tuple[int, str, bool], Tensor]:
    """Returns the masks of a group by image, name and whether it is an object: (H, W) bool."""
    masks: dict[tuple[int, str, bool], Tensor] = {}
    for part in labeled.parts:
        is_object = part.kind is RegionKind.COMMON_OBJECT
        masks[part.image_index, part.label, is_object] = torch.from_numpy(part.mask.copy())
    for compared in labeled.objects:
        key = compared.image_index, compared.label, True
        masks.setdefault(key, torch.from_numpy(compared.mask.copy()))
    return {key: mask for key, mask in masks.items() if bool(mask.any())}


@torch.inference_mode()
def _describe(
    model: Calico,
    pool: ScenePool,
    recipe: RegionRecipe,
    on_progress: Callable[[str, int, int], None],
) -> _Regions:
    config, at_once = model.config, 32
    count = min(recipe.scenes, len(pool))
    described: list[Tensor] = []
    names: list[str] = []
    places: list[int] = []
    generator = torch.Generator().manual_seed(recipe.seed)
    for start in range(0, count, at_once):
        scenes = [pool.scene(n) for n in range(start, min(count, start + at_once))]
        features = model.encode(to_pixels([scene.image for scene in scenes], config))
        images: list[int] = []
        shares: list[Tensor] = []
        for place, scene in enumerate(scenes):
            for (_, name, _), mask in true_regions(labeled_group((scene,))).items():
                images.append(place)
                names.append(name)
                places.append(start + place)
                exact = mask_shares(mask.numpy(), config.image_size, config.mask_side)
                shares.append(_redrawn(exact, generator))
        if images:
            blocks = describe_regions(features, torch.tensor(images), torch.stack(shares))
            described.append(torch.cat(blocks, 1))
        on_progress("describing", min(count, start + at_once), count)
    if not described:
        raise InvalidRecordError("pool: expected scenes with visible objects, found none")
    return _Regions(torch.cat(described), names, torch.tensor(places))


def _redrawn(shares: Tensor, generator: torch.Generator) -> Tensor:
    """An (L, L) outline; half of the time it is made a cell wider or narrower."""
    chance = float(torch.rand((), generator=generator))
    if chance < 0.5:
        return shares
    sign = 1.0 if chance < 0.75 else -1.0
    changed = sign * functional.max_pool2d(sign * shares[None, None], 3, 1, 1)[0, 0]
    return changed if float(changed.max()) > 0.5 else shares


def _train(
    head: RegionHead,
    inputs: Tensor,
    target: Tensor,
    words: Tensor,
    recipe: RegionRecipe,
    on_progress: Callable[[str, int, int], None],
) -> None:
    head.requires_grad_(True).train()
    total = recipe.epochs * -(-len(inputs) // recipe.batch)
    optimizer = torch.optim.AdamW(head.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=total)
    generator = torch.Generator().manual_seed(recipe.seed)
    done = 0
    for _ in range(recipe.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for rows in torch.split(order, recipe.batch):
            loss = functional.cross_entropy(
                head(inputs[rows], words), target[rows], label_smoothing=recipe.smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            done += 1
        on_progress(f"training loss {float(loss.detach()):.3f}", done, total)
    head.eval()


@torch.no_grad()
def _calibrate(
    head: RegionHead, inputs: Tensor, target: Tensor, words: Tensor
) -> tuple[float, float]:
    """Divides the logits by the temperature of the least held-out loss.

    Returns:
        The temperature, and the accuracy in percent.
    """
    logits = head(inputs, words)
    losses = [float(functional.cross_entropy(logits / t, target)) for t in _TEMPERATURES]
    temperature = _TEMPERATURES[losses.index(min(losses))]
    head.word.weight.div_(temperature)
    head.word.bias.div_(temperature)
    right = (logits.argmax(1) == target).float().mean()
    return temperature, 100 * float(right)
