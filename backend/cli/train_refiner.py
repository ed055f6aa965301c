"""`calico train-refiner`: teaches a trained model to sharpen masks on the pixels around them."""

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
from calico_model.training.add_ons.recipes import RefinerRecipe

_DEFAULT = RefinerRecipe()


def train_refiner(
    out: OutOption,
    weights: BaseOption = None,
    pool: PoolOption = None,
    pool_scenes: PoolScenesOption = 3000,
    chunks: ChunksOption = _DEFAULT.chunks,
    steps: StepsOption = _DEFAULT.steps,
    seed: SeedOption = _DEFAULT.seed,
) -> None:
    """Teach a model to sharpen masks.

    Simulated annotators click, box and correct on drawn scenes; a small network looks at each
    mask's own rectangle of the picture, at the picture's resolution, and learns to mend it. A
    refiner that the weights have already goes on learning. Everything else stays as it is.
    OUT/model is then a copy of the model folder that has it: its predictions have finer outlines,
    and a click means what lies under it. A model without it works as before.

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.training.add_ons.refiner import train_refiner as train

    teach(
        train,
        RefinerRecipe(seed=seed, chunks=chunks, steps=steps),
        out=out,
        weights=weights,
        pool=pool,
        scenes=pool_scenes,
        size_px=256,
        shown=("iou_1", "iou_2", "iou_3"),
    )
