"""`calico train-assist`: teaches a trained model to help while somebody annotates."""

from __future__ import annotations

from backend.cli.teaching import (
    BaseOption,
    ChunksOption,
    OutOption,
    PoolOption,
    PoolScenesOption,
    SeedOption,
    StepsOption,
    teach,
)
from calico_model.training.add_ons.recipes import AssistRecipe

_DEFAULT = AssistRecipe()


def train_assist(
    out: OutOption,
    weights: BaseOption = None,
    pool: PoolOption = None,
    pool_scenes: PoolScenesOption = 3000,
    chunks: ChunksOption = _DEFAULT.chunks,
    steps: StepsOption = _DEFAULT.steps,
    seed: SeedOption = _DEFAULT.seed,
) -> None:
    """Teach a model what it needs beside an annotator.

    Two add-ons learn on drawn scenes while everything else stays as it is: exemplar prompts, which
    find an outlined part in the other images of its group, and mask memory, which lets outlined
    parts condition the next one, so that four legs come out as four regions. OUT/model is then a
    copy of the model folder that has both. A model without them works as before.

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.training.add_ons.assist import train_assist as train

    teach(
        train,
        AssistRecipe(seed=seed, chunks=chunks, steps=steps),
        out=out,
        weights=weights,
        pool=pool,
        scenes=pool_scenes,
        size_px=128,
        shown=("exemplar_iou", "memory_iou", "presence_right"),
    )
