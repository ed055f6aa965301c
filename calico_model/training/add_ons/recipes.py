"""How the add-ons of a frozen CALICO are trained, in numbers. Knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from calico_model.errors import InvalidConfigError
from calico_model.training.schedules import flat_rate


@dataclass(frozen=True, kw_only=True)
class AddOnRecipe:
    """The training of a part that is added to a frozen CALICO.

    Attributes:
        seed: of all that is drawn, and of initial weights.
        chunks: encoded pairs to learn from, in chunks of 32.
        steps: optimiser steps.
        learning_rate: peak; linear warm-up, flat, then linear decay over `decay_share` of steps.
        checkpoint_every: steps between resumable states.
    """

    seed: int
    chunks: int
    steps: int
    learning_rate: float
    warmup_steps: int
    decay_share: float = 0.6
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name in ("seed", "warmup_steps") else 1
            if isinstance(value, int) and value < least:
                raise InvalidConfigError(f"{name}: expected >= {least}, got {value}")

    def rate_at(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        return self.learning_rate * flat_rate(
            step, self.steps, warmup_steps=self.warmup_steps, decay_share=self.decay_share
        )

    def lasting(self) -> dict[str, object]:
        """What must not change between the parts of one run."""
        return {k: v for k, v in asdict(self).items() if k != "checkpoint_every"}


@dataclass(frozen=True, kw_only=True)
class AssistRecipe(AddOnRecipe):
    """The whole training of exemplar prompts and mask memory; a chunk takes about 20 MB of disk.

    Attributes:
        exemplars: parts sought in another image per step.
        memories: parts decoded behind others per step.
        sparse_dropout: chance that an exemplar has its dense prompt alone, so that both learn.
        absent_weight: pixel loss of parts that are not there, against 1.
    """

    seed: int = 31
    chunks: int = 40
    steps: int = 700
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    exemplars: int = 40
    memories: int = 40
    sparse_dropout: float = 0.2
    absent_weight: float = 0.5


@dataclass(frozen=True, kw_only=True)
class RefinerRecipe(AddOnRecipe):
    """The whole training of the mask refiner; a chunk takes about 35 MB of disk.

    Attributes:
        masks: simulated annotators per step.
        rounds: times each of them is answered; every answer but an unasked one teaches.
        box_share, corrected_share, unasked_share: annotators that begin with a box, with a mask
            that is not right, or not at all (the model's own mask is to be sharpened); the others
            begin with one click.
    """

    seed: int = 37
    chunks: int = 40
    steps: int = 3000
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    masks: int = 24
    rounds: int = 3
    box_share: float = 0.1
    corrected_share: float = 0.25
    unasked_share: float = 0.15


@dataclass(frozen=True, kw_only=True)
class SpanRecipe(AddOnRecipe):
    """The whole training of the span head; a chunk takes about 25 MB of disk.

    Attributes:
        masks: drawn per step; tags are learned from all answers of a chunk.
        tag_weight: of the tagger's loss (Plum's 0.5).
        anchor_weight: of the queries' divergence from those of [SEG] (Plum: 0.1); 0 lets them go
            where the masks take them.
    """

    seed: int = 43
    chunks: int = 10
    steps: int = 800
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    masks: int = 32
    tag_weight: float = 0.5
    anchor_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PhotoRefinerRecipe(AddOnRecipe):
    """The training of the refiner of photographs.

    Attributes:
        masks: simulated annotators per step.
        rounds: times each of them is answered.
        box_share, corrected_share, unasked_share: as in `RefinerRecipe`.
    """

    seed: int = 41
    chunks: int = 1
    steps: int = 3500
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    checkpoint_every: int = 200
    masks: int = 12
    rounds: int = 2
    box_share: float = 0.2
    corrected_share: float = 0.2
    unasked_share: float = 0.25


@dataclass(frozen=True)
class RegionRecipe:
    """How the region head is fitted; it takes minutes and has no state to resume from.

    Attributes:
        scenes: how many of the pool to describe.
        held_out: share of them kept for the temperature and the accuracy.
        epochs, batch, rate, weight_decay: of AdamW with a one-cycle rate.
        smoothing: of the targets.
        seed: of order, outlines and weights.
    """

    scenes: int = 2500
    held_out: float = 0.1
    epochs: int = 14
    batch: int = 128
    rate: float = 2e-3
    weight_decay: float = 1e-2
    smoothing: float = 0.05
    seed: int = 31
