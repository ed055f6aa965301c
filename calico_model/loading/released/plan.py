"""Assigns released tensors to the tensors of one Calico, before any value is read.

Knows sources, naming schemes and the shapes of one Calico. A plan is complete, or making it raises.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from calico_model.config import CalicoConfig, LoraConfig
from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.loading.released.layouts import LLAMA, NAMING_SCHEMES, recognise
from calico_model.loading.released.llama_tokenizer import LlamaTokenizer, read_llama_tokenizer
from calico_model.loading.released.naming import TensorTarget
from calico_model.loading.released.offers import (
    LORA,
    Offer,
    Recipe,
    part_of,
    read_offer,
    recipe_shape,
)
from calico_model.loading.released.shards import ReleasedTensors, find_sources
from calico_model.loading.released.sizes import fit_config
from calico_model.modeling.adapter import base_state
from calico_model.modeling.model import Calico

VOCABULARY = ("language.model.embed_tokens.weight", "language.lm_head.weight")

_BLIP = "InstructBLIP-Vicuna-7B or PLAN-Lab/CALICO"
_SAM = "GLaMM, SAM or PLAN-Lab/CALICO"
# Every part that a plan must have, and the releases that hold it.
_SOURCES_OF = {
    "eva": _BLIP,
    "qformer": _BLIP,
    "query_tokens": _BLIP,
    "image_projection": _BLIP,
    "dino": "DINOv2 with registers or PLAN-Lab/CALICO",
    "sam_encoder": _SAM,
    "mask_decoder": _SAM,
    "language": "GLaMM, Vicuna or PLAN-Lab/CALICO",
    "segmentation_projection": "GLaMM or PLAN-Lab/CALICO",
}
# Parts that act as the identity until they are trained.
_IDENTITY = ("cem", "cams", LORA)
# Tensors that only the pre-training of their part used.
_DISPENSABLE = ("dino.embeddings.mask_token",)


@dataclass(frozen=True)
class LoadingReport:
    """The parts that a set of released weights held, and those that it lacked.

    Attributes:
        origins: part -> its source and naming scheme.
        untrained: parts that start without trained weights.
        absent: names of tensors filled with zeros, which no computation needs.
        unexpected: file and key of tensors that no scheme knows; none belongs to a used part.
        unused: sources of which no tensor is used.
        new_tokens: tokens whose embedding and head rows are new, the mean of the released ones.
    """

    origins: Mapping[str, str]
    untrained: tuple[str, ...]
    absent: tuple[str, ...]
    unexpected: tuple[str, ...]
    unused: tuple[str, ...]
    new_tokens: tuple[str, ...]

    def lines(self) -> list[str]:
        """Returns the report as text, one fact a line."""
        lines = [f"{part}: from {origin}" for part, origin in self.origins.items()]
        lines += [f"{part}: not released; starts untrained" for part in self.untrained]
        lines += [f"{name}: not released; zeros, only pre-training uses it" for name in self.absent]
        lines += [f"{name}: unknown, not used" for name in self.unexpected]
        lines += [f"{name}: nothing of it is used" for name in self.unused]
        if self.new_tokens:
            lines.append(f"language: new rows, to be trained, for {' '.join(self.new_tokens)}")
        return lines


@dataclass(frozen=True)
class LoadingPlan:
    """Everything needed to fill one model.

    Attributes:
        config: of the model, sizes taken from the weights.
        tokenizer: of the LLM's folder, with the tags of the grammar.
        recipes: canonical name -> the released tensors it is made of.
        report: of the sources.
    """

    config: CalicoConfig
    tokenizer: LlamaTokenizer
    recipes: Mapping[str, Recipe]
    report: LoadingReport

    def read(self, name: str) -> Tensor:
        """Reads the values of one tensor into new memory, on the CPU, in the released dtype.

        In embedding and head, the row of every new token is the mean of the released rows.

        Raises:
            CheckpointError: damaged file or values that are not finite.
        """
        pieces = self.recipes[name]
        shape = recipe_shape(name, pieces)
        if name in VOCABULARY:
            shape = (self.config.language.vocab_size, *shape[1:])
        whole: Tensor | None = None
        for piece in pieces:
            tensor = piece.source.read(piece.key)
            if whole is None:
                whole = tensor.new_zeros(shape)
            _place_block(whole, tensor, piece.target)
        assert whole is not None
        return whole


def _place_block(whole: Tensor, released: Tensor, target: TensorTarget) -> None:
    if target.take is not None:
        k, n = target.take
        released = released.chunk(n)[k]
    if target.slot is not None:
        k, _ = target.slot
        whole[k * len(released) : (k + 1) * len(released)] = released
    elif target.name in VOCABULARY:
        whole[: len(released)] = released
        whole[len(released) :] = released.mean(0, dtype=torch.float32).to(released.dtype)
    else:
        whole.copy_(released.reshape(whole.shape))


def make_plan(folder: Path, base: CalicoConfig) -> LoadingPlan:
    """Plans a model from a folder of released checkpoints, in it or up to two levels below.

    Args:
        folder: one merged release, or one folder or file per public part.
        base: configuration of everything that shapes do not determine; without a trunk.

    Raises:
        CheckpointError: a part without source, two sources of one kind, a missing, unknown,
            damaged or mis-shaped tensor; the message names file and key.
        InvalidConfigError: `base` has a trunk, which no release has.
    """
    if base.trunk is not None:
        raise InvalidConfigError("trunk: expected none: released encoders look at pixels")
    sources = list(find_sources(folder))
    offers = [offer for source in sources if (offer := read_offer(source)) is not None]
    chosen = _choose(offers, folder)
    recipes = {name: recipe for offer, part in chosen for name, recipe in offer.parts[part].items()}
    shapes = {name: recipe_shape(name, recipe) for name, recipe in recipes.items()}
    language = next(offer for offer, part in chosen if part == "language")
    tokenizer = read_llama_tokenizer(language.source.folder, language.source.name)
    rows = shapes.get(VOCABULARY[0], (0,))[0]
    base = replace(base, lora=_lora_scale(base.lora, chosen))
    try:
        config = fit_config(base, shapes, vocab_size=max(rows, tokenizer.rows))
    except (CheckpointError, InvalidConfigError) as error:
        raise CheckpointError(f"{folder.name}: {error}") from error
    _check_cam_layers(chosen, config)
    absent = _check(recipes, shapes, config)
    used = {part for _, part in chosen}
    report = LoadingReport(
        origins={part: f"{offer.source.name} ({offer.scheme.title})" for offer, part in chosen},
        untrained=tuple(p for p in (*_SOURCES_OF, *_IDENTITY) if p not in used),
        absent=absent,
        unexpected=tuple(key for offer in offers for key in offer.unexpected),
        unused=_unused(sources, chosen),
        new_tokens=tokenizer.tokens_from(rows),
    )
    return LoadingPlan(config, tokenizer, recipes, report)


def has_released_parts(folder: Path) -> bool:
    """Whether a folder holds any checkpoint in a known naming scheme.

    Raises:
        CheckpointError: a weights file in it is damaged.
    """
    return any(recognise(source.keys) is not None for source in find_sources(folder))


def _choose(offers: Sequence[Offer], folder: Path) -> list[tuple[Offer, str]]:
    """Chooses one source per part, in the order of `NAMING_SCHEMES`."""
    by_part: dict[str, list[Offer]] = defaultdict(list)
    for offer in sorted(offers, key=lambda o: NAMING_SCHEMES.index(o.scheme)):
        for part in offer.parts:
            by_part[part].append(offer)
    for part, offering in by_part.items():
        first, *others = offering
        if others and others[0].scheme is first.scheme:
            raise CheckpointError(
                f"{folder.name}: {part} is in {first.source.name} and {others[0].source.name}: "
                "expected one source"
            )
    chosen = {part: offering[0] for part, offering in by_part.items()}
    plain = chosen.get("language")
    for part, givers in _SOURCES_OF.items():
        # A Vicuna that never met [SEG] has to be trained anyway, and its projection with it.
        may_be_absent = part == "segmentation_projection" and plain and plain.scheme is LLAMA
        if part not in chosen and not may_be_absent:
            held = ", ".join(f"{o.source.name} ({o.scheme.title})" for o in offers) or "nothing"
            raise CheckpointError(
                f"{folder.name}: no weights of {part}: expected {givers}; found {held}"
            )
    return [(chosen[part], part) for part in (*_SOURCES_OF, *_IDENTITY) if part in chosen]


def _lora_scale(base: LoraConfig, chosen: Sequence[tuple[Offer, str]]) -> LoraConfig:
    """Reads the trained rank and alpha; without adapter_config.json the ratio is the paper's."""
    for offer, part in chosen:
        path = offer.source.folder / "adapter_config.json"
        if part == LORA and path.is_file():
            try:
                raw = json.loads(path.read_text("utf-8"))
                return replace(base, rank=int(raw["r"]), alpha=int(raw["lora_alpha"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{offer.source.name}/{path.name}: expected r and lora_alpha: {error!r}"
                ) from error
    return base


def _check_cam_layers(chosen: Sequence[tuple[Offer, str]], config: CalicoConfig) -> None:
    for offer, part in chosen:
        if part == "cams" and offer.cam_layers not in (None, config.cam_layers):
            piece = next(iter(offer.parts[part].values()))[0]
            raise CheckpointError(
                f"{piece.where}: CAMs at LLM layers {offer.cam_layers}, "
                f"expected {config.cam_layers}"
            )


def _check(
    recipes: Mapping[str, Recipe], shapes: Mapping[str, tuple[int, ...]], config: CalicoConfig
) -> tuple[str, ...]:
    """Compares a plan with the shapes of its model; returns the dispensable names it lacks."""
    with torch.device("meta"):
        wanted = canonical_shapes(Calico(config))
    for name, recipe in recipes.items():
        if name not in wanted:
            raise CheckpointError(f"{recipe[0].where}: unexpected: CALICO has no {name}")
        if shapes[name] != wanted[name] and not _lacks_rows(name, shapes[name], wanted[name]):
            raise CheckpointError(
                f"{recipe[0].where}: expected shape {wanted[name]} for {name}, got {shapes[name]}"
            )
        slots = {piece.target.slot for piece in recipe} - {None}
        if slots and len(slots) != 2:
            raise CheckpointError(f"{recipe[0].where}: its counterpart for {name} is missing")
    begun = {part_of(name): recipe[0] for name, recipe in recipes.items()}
    absent: list[str] = []
    for name in wanted:
        part = part_of(name)
        if name in recipes or part not in begun:
            continue
        if name not in _DISPENSABLE:
            raise CheckpointError(f"{begun[part].source.name}: {name} of {part} is missing")
        absent.append(name)
    return tuple(absent)


def _lacks_rows(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return name in VOCABULARY and shape[1:] == wanted[1:] and shape[0] < wanted[0]


def canonical_shapes(model: Calico) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a model's tensors by canonical name, LoRA included."""
    lora = {n: tuple(p.shape) for n, p in model.named_parameters() if part_of(n) == LORA}
    return {name: tuple(tensor.shape) for name, tensor in base_state(model).items()} | lora


def _unused(
    sources: Sequence[ReleasedTensors], chosen: Sequence[tuple[Offer, str]]
) -> tuple[str, ...]:
    used = {id(offer.source) for offer, _ in chosen}
    return tuple(source.name for source in sources if id(source) not in used)
