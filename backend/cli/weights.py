"""The checkpoint a command works with."""

from __future__ import annotations

from pathlib import Path

from calico_model.evaluation.protocol import Predictor


def load(folder: Path | None, device: str) -> Predictor:
    """Loads a predictor, by default the one that ships with the package.

    Raises:
        CheckpointError: the folder holds no usable checkpoint.
    """
    # torch takes seconds to import: `--help` and a wrong argument must not wait for it.
    from calico_model.predictor import DEFAULT_WEIGHTS, load_predictor

    return load_predictor(folder or DEFAULT_WEIGHTS, device=device)
