"""How one online update learns, in numbers. Knows nothing of tensors or examples."""

from __future__ import annotations

from dataclasses import dataclass, field

from calico_model.modeling.adapter import AdapterScope
from calico_model.training.schedules import check_value


@dataclass(frozen=True)
class Mix:
    """Which questions a batch consists of.

    Attributes:
        batch: questions per batch.
        base_share: share of the batch that is drawn from the base's data, if there is any.
        newest: how many times as often a new correction is drawn as an earlier one.
        recombined: share of the corrected groups that are pairs of images of different groups.
        mixed: share of those pairs whose second image is of the base's data.
    """

    batch: int
    base_share: float
    newest: float
    recombined: float
    mixed: float


@dataclass(frozen=True)
class TermWeights:
    """Weights of the terms of the loss beside text, which weighs 1.

    Attributes:
        mask: scales pixel, Dice and quality losses.
        absence: of names that the answer must not contain.
        anchor: of the divergence from the base on its own data.
    """

    mask: float
    absence: float
    anchor: float


@dataclass(frozen=True)
class DensePlan:
    """How the dense head learns in an update.

    Attributes:
        steps: optimiser steps between two readings of the clock.
        batch: images per step. Few: a head has seconds to learn, and many small steps bring it
            further than half as many of twice the size.
        matrix_rate: peak learning rate of the body's matrices, which Muon learns.
        rate: peak learning rate of rows, norms and biases, which AdamW learns.
        weight_decay: of both.
        coarse: share of the update that is spent on coarse cells.
        balance: how much more often images of rare names are drawn, as a power of their rarity.
        dropout: share of the deepest map's channels that a step leaves out, so that no name depends
            on a few of them.
        images: most images and views together; every image is learned from even so.
        most_views: most views of an image beside the image itself.
    """

    steps: int = 16
    batch: int = 4
    matrix_rate: float = 0.02
    rate: float = 3e-3
    weight_decay: float = 0.05
    coarse: float = 0.7
    balance: float = 0.5
    dropout: float = 0.3
    images: int = 200
    most_views: int = 5

    def views_for(self, images: int) -> int:
        """Views of each of so many images."""
        return max(0, min(self.most_views, self.images // max(1, images) - 1))


@dataclass(frozen=True)
class UpdatePlan:
    """How one update learns.

    Attributes:
        scope: which parts learn.
        seed: of what is drawn when, of wordings, and of LoRA's first matrices.
        least_steps, steps_per_example, most_steps: optimiser steps grow with the new examples.
        views, most_views: most augmented views of each new example, and of all of them together.
        seconds: budget; fewer steps are made where they would take longer. Needs a clock.
        mix: how a batch is made up.
        masks: most masks decoded per step.
        terms: weights of the loss.
        dense: how the dense head learns beside it.
        learning_rate: peak, of LoRA, CAM, CEM and queries; linear warm-up, then to 0.
        decoder_rate: of the mask decoder and of the projection.
        row_rate: of the labels' token rows.
        warmup: share of the update.
        half: layers compute in bfloat16; None where the processor is made for it.
        most_kept: largest share of the start in the result (`update.averaged`).
        decay: pull of every weight back to the base, per step and unit of its rate (L2-SP).
    """

    scope: AdapterScope = field(default_factory=AdapterScope)
    seed: int = 27
    least_steps: int = 40
    steps_per_example: float = 2.0
    most_steps: int = 80
    views: int = 4
    most_views: int = 48
    seconds: float = 30.0
    mix: Mix = field(default_factory=lambda: Mix(12, 0.35, 2.0, 0.5, 0.3))
    masks: int = 32
    terms: TermWeights = field(default_factory=lambda: TermWeights(1.0, 0.5, 1.0))
    dense: DensePlan = field(default_factory=DensePlan)
    learning_rate: float = 2e-3
    decoder_rate: float = 5e-4
    row_rate: float = 5e-3
    warmup: float = 0.1
    half: bool | None = None
    most_kept: float = 0.5
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("least_steps", "most_steps", "masks", "seconds"):
            check_value(self, name, getattr(self, name) > 0, "a number above 0")
        for name in ("learning_rate", "decoder_rate", "row_rate"):
            check_value(self, name, getattr(self, name) > 0, "a number above 0")
        for name in ("seed", "decay", "steps_per_example", "views", "most_views"):
            check_value(self, name, getattr(self, name) >= 0, "0 or more")
        check_value(self, "most_kept", 0 <= self.most_kept < 1, "a share below 1")
        check_value(self, "warmup", 0 <= self.warmup < 1, "a share below 1")

    def steps_for(self, examples: int) -> int:
        """Optimiser steps for so many new examples."""
        wanted = round(self.least_steps + self.steps_per_example * examples)
        return min(self.most_steps, wanted)

    def start_share(self, earlier: int, new: int) -> float:
        """Share of the start in the result: that of its corrections in all, at most `most_kept`."""
        return min(self.most_kept, earlier / max(1, earlier + new))

    def views_for(self, examples: int) -> int:
        """Views of each of so many new examples."""
        return min(self.views, self.most_views // max(1, examples))
