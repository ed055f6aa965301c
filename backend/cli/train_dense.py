"""`calico train-dense`: gives a trained model a dense head, which learns new names in seconds."""

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
from calico_model.training.dense_recipe import DenseRecipe

_DEFAULT = DenseRecipe()


def train_dense(
    out: OutOption,
    weights: BaseOption = None,
    pool: PoolOption = None,
    pool_scenes: PoolScenesOption = 3000,
    chunks: ChunksOption = _DEFAULT.chunks,
    steps: StepsOption = _DEFAULT.steps,
    seed: SeedOption = _DEFAULT.seed,
) -> None:
    """Teach a model to learn a project's names quickly.

    A small network learns on drawn scenes to say of every cell of an image which part it belongs
    to, from the frozen encoders' features alone. What comes of it is not these names but a head
    that learns others from a handful of corrected groups: every update of a project's adapter
    trains it on that project's own. OUT/model is then a copy of the model folder that has it. A
    model without it, and a project without corrections, answer as before.

    The last line of stdout is JSON: model, finished, seconds.
    """
    from calico_model.training.dense_training import train_dense as train

    teach(
        train,
        DenseRecipe(seed=seed, chunks=chunks, steps=steps),
        out=out,
        weights=weights,
        pool=pool,
        scenes=pool_scenes,
        size_px=256,
        shown=("overlap", "right"),
    )
