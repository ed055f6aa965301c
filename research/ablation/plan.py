"""The plan of a study: the rows of the paper's ablation tables, and how each is trained and judged.

Knows configurations and figures only, nothing of tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from calico_model.config import AblationConfig
from calico_model.data.casting import SceneSplit
from calico_model.errors import InvalidConfigError
from calico_model.training.pretraining.recipe import Stage


@dataclass(frozen=True)
class AblationRow:
    """One model of an ablation table.

    Attributes:
        key: name in JSON, folders and options.
        title: name in tables, in the paper's words.
        meaning: what the row leaves out or changes.
        switches: the parts the model has.
        cams: number of context-aware modules.
        paper: the paper's figures in percent, in the order of `HEADLINE`; None where the paper
            gives none.
    """

    key: str
    title: str
    meaning: str
    switches: AblationConfig
    cams: int = 2
    paper: tuple[float, ...] | None = None


FULL = "full"
"""Key of the row that all others are compared with."""

# Paper, table 2 (CALICO-7B on MixedParts): mIoU, AP50, Recall, SS, S-IoU.
COMPONENTS = (
    AblationRow(
        "without_qformer",
        "w/o Q-Former",
        "pooled image tokens through one linear layer, hence no CEM and no CAM either",
        AblationConfig(use_qformer=False),
        paper=(59.2, 38.5, 44.8, 64.5, 55.6),
    ),
    AblationRow(
        "without_dino",
        "w/o DINO",
        "no cross-attention: CAMs ask the plain global tokens",
        AblationConfig(use_dino=False),
        paper=(61.7, 43.9, 57.1, 80.2, 74.5),
    ),
    AblationRow(
        "without_cem",
        "w/o CEM",
        "CAMs inject the adapted hidden state alone, nothing from the images",
        AblationConfig(use_cem=False),
        paper=(61.6, 43.6, 57.5, 80.8, 75.2),
    ),
    AblationRow(
        "without_cam",
        "w/o CAM",
        "CEM features are injected, but the prompt does not shift the queries",
        AblationConfig(use_cam_guidance=False),
        paper=(63.3, 45.9, 59.7, 82.0, 76.5),
    ),
    AblationRow(
        "without_cem_and_cam",
        "w/o CEM and CAM",
        "nothing is injected",
        AblationConfig(inject=False),
        paper=(62.7, 44.1, 58.1, 81.6, 76.3),
    ),
    AblationRow(FULL, "full", "everything", AblationConfig(), paper=(63.7, 45.9, 59.7, 82.7, 77.1)),
)

# Paper, figure 8: two layers are best; the figure gives no numbers.
PLACEMENT = (
    AblationRow("one_layer", "1 layer", "one CAM, in the middle", AblationConfig(), cams=1),
    AblationRow(FULL, "2 layers (full)", "two CAMs, at thirds", AblationConfig()),
    AblationRow("three_layers", "3 layers", "three CAMs, at quarters", AblationConfig(), cams=3),
)


def select_rows(table: tuple[AblationRow, ...], keys: tuple[str, ...]) -> tuple[AblationRow, ...]:
    """Returns the rows of the given keys in table order; `full` is always among them.

    Args:
        table: all rows.
        keys: of the rows to return; () for all.

    Raises:
        InvalidConfigError: a key that is no row of the table.
    """
    known = [row.key for row in table]
    for key in keys:
        if key not in known:
            raise InvalidConfigError(f"--rows: expected some of {', '.join(known)}, got {key!r}")
    selected = {*keys, FULL} if keys else set(known)
    return tuple(row for row in table if row.key in selected)


class Start(StrEnum):
    """First values of the language side: new ones, or those of the finished weights."""

    SCRATCH = "scratch"
    LANGUAGE = "language"


@dataclass(frozen=True)
class TrialPlan:
    """How every trial is trained and judged.

    Attributes:
        steps: optimiser steps.
        scenes: least number of training scenes whose features are stored.
        groups: number of held-out pairs.
        split: hold-out that the pairs are drawn from.
        start: first values of the language side.
        pairs: groups per step, each with one question.
        masks: upper limit of the masks decoded per step.
        learning_rate: peak; warm-up over the first tenth, linear decay over the last half.
        mask_weight: factor on the paper's mask weights; a new [SEG] projection needs more.
        resamples: number of bootstrap resamples.
    """

    steps: int = 450
    scenes: int = 4000
    groups: int = 300
    split: SceneSplit = SceneSplit.SEEN
    start: Start = Start.SCRATCH
    pairs: int = 16
    masks: int = 32
    learning_rate: float = 1e-3
    mask_weight: float = 3.0
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "scenes", "groups", "pairs", "masks", "resamples"):
            if getattr(self, name) < 1:
                raise InvalidConfigError(f"{name}: expected >= 1, got {getattr(self, name)}")

    @property
    def stage(self) -> Stage:
        """The training as a stage of a recipe."""
        return Stage(
            "ablation",
            self.steps,
            self.learning_rate,
            language=True,
            scenes=2 * self.pairs,
            masks=self.masks,
            dense_weight=0.0,
            mask_weight=self.mask_weight,
            warmup_steps=self.steps // 10,
            decay_share=0.5,
        )
