"""Scenes become training tensors: pixels, dense label histograms, turns with texts, mask targets.

Legend: M images, S image side, G cells per side, K masks, L logit side, P part names, Y categories.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from calico_model import prompts
from calico_model.data.catalogue import PART_NAMES, TRAINED_CATEGORIES
from calico_model.data.collate import TrainingTurns, Turn, collate_turns
from calico_model.data.comparison import SceneComparison, compare, visible_parts
from calico_model.data.scene import Scene
from calico_model.inference.images import normalise
from calico_model.modeling.features import ImageFeatures
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.training.engine import move
from calico_model.training.simulated_clicks import ClickDraw
from calico_model.types import RegionKind

PART_INDEX = {name: index for index, name in enumerate(PART_NAMES)}
CATEGORY_INDEX = {name: index for index, name in enumerate(TRAINED_CATEGORIES)}
WHOLE = len(PART_NAMES)
"""Index of 'the whole object' beside the part names."""


@dataclass(frozen=True)
class SceneBatch:
    """M scenes as tensors.

    Attributes:
        pixels: (M, 3, S, S) normalised.
        parts: (M, S, S) int64, 0 = none, else 1 + part index.
        categories: (M, S, S) int64, 0 = background, else 1 + category index.
        main: (M, S, S) bool, the compared object.
        presence: (M, Y + P) in {0, 1}: categories in the image, visible parts of the main object.
    """

    pixels: Tensor
    parts: Tensor
    categories: Tensor
    main: Tensor
    presence: Tensor


@dataclass(frozen=True)
class MaskTargets:
    """K masks to decode.

    Attributes:
        image: (K,) which scene.
        part: (K,) part index, or `WHOLE`.
        category: (K,) category index.
        target: (K, L, L) share of each cell that belongs to the mask.
    """

    image: Tensor
    part: Tensor
    category: Tensor
    target: Tensor


@dataclass(frozen=True)
class TrainingBatch:
    """The data of one optimiser step.

    Attributes:
        scenes: M images.
        masks: K masks to decode.
        turns: questions with answers; None while only encoders learn.
        segments: (K,) number of each mask's [SEG] token among those of the turns.
        features: of the scenes, if frozen encoders have encoded them before.
        clicks: masks that simulated annotators click, too.
    """

    scenes: SceneBatch
    masks: MaskTargets
    turns: TrainingTurns | None = None
    segments: Tensor | None = None
    features: ImageFeatures | None = None
    clicks: ClickDraw | None = None

    def to(self, device: torch.device) -> TrainingBatch:
        """Moves all tensors."""
        return move(self, device)


def batch_scenes(scenes: Sequence[Scene]) -> SceneBatch:
    """Stacks scenes of one side length."""
    images = np.stack([scene.image for scene in scenes])
    objects = torch.from_numpy(np.stack([scene.object_map for scene in scenes])).long()
    parts = torch.from_numpy(np.stack([scene.part_map for scene in scenes])).long()
    categories = torch.zeros_like(objects)
    presence = torch.zeros(len(scenes), len(TRAINED_CATEGORIES) + len(PART_NAMES))
    for row, scene in enumerate(scenes):
        ids = torch.tensor([0, *(1 + CATEGORY_INDEX[name] for name in scene.categories)])
        categories[row] = ids[objects[row]]
        presence[row, ids[1:] - 1] = 1.0
        parts_there = [len(TRAINED_CATEGORIES) + PART_INDEX[name] for name in visible_parts(scene)]
        presence[row, parts_there] = 1.0
    pixels = normalise(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return SceneBatch(pixels, parts, categories, objects == 1, presence)


def dictionary_batch(
    scenes: Sequence[Scene], rng: np.random.Generator, masks: int, side: int
) -> TrainingBatch:
    """Makes a batch of the encoder stage: scenes with masks drawn from their parts and objects.

    Args:
        scenes: of one side length.
        rng: source of everything that is drawn.
        masks: most masks.
        side: of the masks, L.
    """
    batch = batch_scenes(scenes)
    wanted: list[tuple[int, int, int]] = []
    for row, scene in enumerate(scenes):
        category = CATEGORY_INDEX[scene.categories[0]]
        wanted.append((row, WHOLE, category))
        wanted.extend((row, PART_INDEX[name], category) for name in visible_parts(scene))
    picks = rng.permutation(len(wanted))[:masks]
    return TrainingBatch(batch, mask_targets(batch, [wanted[int(i)] for i in picks], side))


def group_batch(
    groups: Sequence[Sequence[Scene]],
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    queries: int,
    questions: int,
    masks: int,
    side: int,
    system_prompt: str = "",
    chances: Sequence[float] = (1.0, 1.0, 1.0),
    nothing_chance: float = 1.0,
) -> TrainingBatch:
    """Makes a batch of a language stage: groups with questions, answers and masks of them.

    Args:
        groups: scenes of one side length.
        tokenizer: of the model.
        rng: source of everything that is drawn.
        queries: visual tokens per image.
        questions: how many of the three questions are asked about each group.
        masks: most masks.
        side: of the masks, L.
        system_prompt: of the model's configuration.
        chances: relative chance of each question.
        nothing_chance: relative chance of a question whose answer is "nothing".
    """
    choose = random.Random(int(rng.integers(2**31)))
    ask = partial(_ask, groups, choose, questions, chances, nothing_chance, system_prompt)
    turns, wanted = ask()
    while not wanted:  # nothing in common anywhere: ask something else
        turns, wanted = ask()
    batch = batch_scenes([scene for group in groups for scene in group])
    collated = collate_turns(turns, tokenizer, queries)
    if len(collated.seg_row) != len(wanted):
        raise AssertionError("every [SEG] of an answer has one mask")
    picks = np.sort(rng.permutation(len(wanted))[:masks])
    targets = mask_targets(batch, [wanted[int(i)] for i in picks], side)
    return TrainingBatch(batch, targets, collated, torch.from_numpy(picks))


def _ask(
    groups: Sequence[Sequence[Scene]],
    choose: random.Random,
    questions: int,
    chances: Sequence[float],
    nothing_chance: float,
    system_prompt: str,
) -> tuple[list[Turn], list[tuple[int, int, int]]]:
    turns: list[Turn] = []
    wanted: list[tuple[int, int, int]] = []
    first = 0
    for group in groups:
        comparison = compare(group)
        answers = (comparison.common_objects, comparison.common_parts, any(comparison.unique_parts))
        weights = [
            w * (1.0 if answer else nothing_chance)
            for w, answer in zip(chances, answers, strict=True)
        ]
        for kind in _draw_kinds(choose, questions, weights):
            turn, masks = write_turn(kind, comparison, first, choose, system_prompt)
            turns.append(turn)
            wanted.extend(masks)
        first += len(group)
    return turns, wanted


def _draw_kinds(
    choose: random.Random, questions: int, chances: Sequence[float]
) -> tuple[RegionKind, ...]:
    """Weighted draw without replacement: the largest u^(1/w) win (Efraimidis and Spirakis)."""
    keys = {k: choose.random() ** (1.0 / w) for k, w in zip(RegionKind, chances, strict=True)}
    return tuple(sorted(keys, key=lambda kind: -keys[kind]))[:questions]


def write_turn(
    kind: RegionKind,
    comparison: SceneComparison,
    first: int,
    choose: random.Random | None,
    system_prompt: str = "",
) -> tuple[Turn, list[tuple[int, int, int]]]:
    """Writes one question with its true answer.

    Args:
        kind: the question.
        comparison: the truth of the group.
        first: index of the group's first image in the batch.
        choose: picks wordings; None takes the first of each.
        system_prompt: of the model's configuration.

    Returns:
        The turn, and (image, part or `WHOLE`, category) of each [SEG] in answer order.
    """
    count = len(comparison.mains)
    objects, parts = _phrases(kind, comparison)
    question = choose.choice(prompts.QUESTIONS[kind]) if choose else prompts.QUESTIONS[kind][0]
    turn = Turn(
        prompts.conversation(question, count, system_prompt),
        prompts.write_answer(kind, objects, parts, choose),
        tuple(range(first, first + count)),
    )
    masks = [
        (first + k, WHOLE, CATEGORY_INDEX[phrase.label])
        for phrase in objects
        for k in phrase.images
    ]
    masks += [
        (first + k, PART_INDEX[phrase.label], CATEGORY_INDEX[comparison.mains[k]])
        for phrase in parts
        for k in phrase.images
    ]
    return turn, masks


def _phrases(kind: RegionKind, comparison: SceneComparison) -> tuple[list[Phrase], list[Phrase]]:
    every = tuple(range(len(comparison.mains)))
    if kind is RegionKind.COMMON_OBJECT:
        return [Phrase(name, every, True) for name in comparison.common_objects], []
    mains = comparison.mains
    objects = [
        Phrase(name, tuple(k for k in every if mains[k] == name), True)
        for name in dict.fromkeys(mains)
    ]
    if kind is RegionKind.COMMON_PART:
        return objects, [Phrase(name, every, False) for name in comparison.common_parts]
    unique = [Phrase(name, (k,), False) for k in every for name in comparison.unique_parts[k]]
    return objects, unique


def mask_targets(
    batch: SceneBatch, wanted: Sequence[tuple[int, int, int]], side: int
) -> MaskTargets:
    """Returns the masks of (image, part or `WHOLE`, category), in (L, L) cells; L is `side`."""
    image, part, category = (torch.tensor(column) for column in zip(*wanted, strict=True))
    whole = batch.categories[image] == category[:, None, None] + 1  # (K, S, S)
    piece = (batch.parts[image] == part[:, None, None] + 1) & batch.main[image]
    mask = torch.where((part == WHOLE)[:, None, None], whole, piece).float()
    return MaskTargets(image, part, category, functional.adaptive_avg_pool2d(mask, side))


def cell_shares(labels: Tensor, classes: int, cells: int) -> Tensor:
    """Share of each class in each cell.

    Args:
        labels: (M, S, S) int64 in [0, classes).
        classes: number of classes.
        cells: cells per side; divides S.

    Returns:
        (M, cells, cells, classes), summing to 1.
    """
    count, side = len(labels), labels.shape[-1]
    along = torch.arange(side, device=labels.device) // (side // cells)
    image = torch.arange(count, device=labels.device)
    cell = (image[:, None, None] * cells + along[:, None]) * cells + along
    index = (cell * classes + labels).flatten()
    totals = torch.bincount(index, minlength=count * cells * cells * classes)
    return totals.view(count, cells, cells, classes).float() / (side // cells) ** 2
