"""How calico-tiny is trained from scratch, in numbers. Knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass, replace

from calico_model.errors import InvalidConfigError
from calico_model.training.schedules import flat_rate


@dataclass(frozen=True)
class Stage:
    """One part of the training with a schedule of its own.

    Attributes:
        name: shown in logs and checkpoints.
        steps: optimiser steps.
        learning_rate: peak; linear warm-up, flat, then linear decay over `decay_share` of steps.
        language: train the LLM path too; False trains the encoders and the mask decoder alone.
        scenes: images per step and process; a language stage divides them into groups of one size.
        questions: how many of the three questions are asked about a group.
        turns: about larger groups more questions are asked, until the step has about this many.
        chances: relative chance of each question: common object, common part, unique part.
        nothing_chance: relative chance of a question whose answer is "nothing", at most 1.
        group_sizes: chance that the groups of a step have 1, 2, 3, ... images.
        masks: most masks decoded per step and process.
        clicks: most of these masks that simulated annotators click, too; 0 is none.
        dense_weight: of the part and category loss of cells.
        mask_weight: factor of the paper's mask weights; a decoder from scratch needs more.
        prompt_weight: of the distance between [SEG] prompts and the part dictionary that the
            encoder stage learned.
    """

    name: str
    steps: int
    learning_rate: float
    language: bool
    scenes: int = 32
    questions: int = 1
    turns: int = 0
    chances: tuple[float, float, float] = (1.0, 1.0, 1.0)
    nothing_chance: float = 1.0
    group_sizes: tuple[float, ...] = (0.03, 0.52, 0.13, 0.12, 0.10, 0.10)
    masks: int = 48
    clicks: int = 0
    dense_weight: float = 0.3
    mask_weight: float = 1.0
    prompt_weight: float = 0.5
    warmup_steps: int = 100
    decay_share: float = 0.3

    def rate_at(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        return self.learning_rate * flat_rate(
            step, self.steps, warmup_steps=self.warmup_steps, decay_share=self.decay_share
        )

    def questions_of(self, groups: int) -> int:
        """How many of the three questions are asked about each of a step's groups."""
        return min(3, max(self.questions, round(self.turns / groups)))


_UNIQUE_FIRST = (0.25, 0.3, 0.45)

REFINE = Stage(
    "refine",
    879,
    8e-4,
    language=True,
    masks=80,
    dense_weight=0.15,
    mask_weight=3.0,
    prompt_weight=0.0,
    decay_share=0.0,
)
"""The stage that may also start from weights of an earlier run."""


@dataclass(frozen=True)
class PretrainingRecipe:
    """The whole training.

    Attributes:
        seed: of data order, initial weights and wordings.
        pool_scenes: rendered scenes kept on disk; groups are drawn from them again and again.
        stages: in their order.
        presence_weight: of the loss that the queries tell the categories and parts of an image.
        clip_norm: gradient clipping.
        checkpoint_every: steps between resumable checkpoints.
    """

    seed: int = 27
    pool_scenes: int = 72_000
    stages: tuple[Stage, ...] = (
        Stage("encoders", 1000, 1.5e-3, language=False),
        Stage("joint", 1250, 8e-4, language=True, masks=64, dense_weight=0.1, mask_weight=3.0),
        REFINE,
        replace(
            REFINE,
            name="settle",
            steps=1250,
            chances=_UNIQUE_FIRST,
            warmup_steps=1,
            decay_share=0.5,
        ),
        replace(
            REFINE,
            name="widen",
            steps=300,
            learning_rate=4e-4,
            group_sizes=(0.0, 0.34, 0.10, 0.16, 0.20, 0.20),
            chances=_UNIQUE_FIRST,
            warmup_steps=10,
            decay_share=1.0,
        ),
        replace(
            REFINE,
            name="balance",
            steps=1430,
            turns=12,
            learning_rate=7e-4,
            group_sizes=(0.0, 0.30, 0.12, 0.16, 0.21, 0.21),
            chances=_UNIQUE_FIRST,
            nothing_chance=0.4,
            clicks=32,
            warmup_steps=25,
            decay_share=0.6,
        ),
    )
    presence_weight: float = 0.3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        if not self.stages:
            raise InvalidConfigError("stages: expected at least one")
        for stage in self.stages:
            if stage.steps < 1:
                raise InvalidConfigError(f"{stage.name}: steps: expected >= 1, got {stage.steps}")
            if not 0.0 < stage.nothing_chance <= 1.0:
                raise InvalidConfigError(
                    f"{stage.name}: nothing_chance: expected in (0, 1], got {stage.nothing_chance}"
                )
