"""The checkpoint a command works with, and the options that name it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calico_model.evaluation.protocol import GroupPredictor
from calico_model.loading.precision import Precision

WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", help="Checkpoint; calico-tiny if not given.", metavar="DIR"),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]


def load(folder: Path | None, device: str, precision: Precision | None = None) -> GroupPredictor:
    """Loads a predictor, by default the one that ships with the package.

    What a large model will hold where is printed before it is loaded.

    Raises:
        CheckpointError: the folder holds no usable checkpoint.
        InsufficientMemoryError: the model does not fit the device.
    """
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from backend.cli.memory_tables import show_plan
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor

    return load_predictor(
        folder or DEFAULT_WEIGHTS, device=device, precision=precision, on_plan=show_plan
    )
