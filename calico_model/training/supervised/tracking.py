"""Trackers of a training beside its curve: TensorBoard, and MLflow if it is installed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from calico_model.errors import InvalidConfigError


class Tracker(Protocol):
    """Takes named numbers of steps."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Notes the numbers of one step."""
        ...

    def close(self) -> None:
        """Writes pending numbers and ends."""
        ...


class TensorBoardTracker:
    """Event files that `tensorboard --logdir FOLDER` shows."""

    def __init__(self, folder: Path, *, resume_step: int) -> None:
        """Opens a folder; numbers of an interrupted run after `resume_step` are hidden."""
        purge = resume_step + 1 if resume_step else None
        # Files are named by the second; a run resumed within one must not overwrite the first.
        suffix = f".{resume_step:07d}.{os.getpid()}"
        self._writer = SummaryWriter(str(folder), purge_step=purge, filename_suffix=suffix)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Notes the numbers of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes out what is pending."""
        self._writer.close()


class MlflowTracker:
    """A run of MLflow, at the server that MLflow's own settings name."""

    def __init__(self, experiment: str, run: str, recipe: Mapping[str, object]) -> None:
        """Starts a run.

        Raises:
            InvalidConfigError: mlflow is not installed.
        """
        self._mlflow = _mlflow()
        self._mlflow.set_experiment(experiment)
        self._mlflow.start_run(run_name=run)
        self._mlflow.log_params(dict(recipe))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Notes the numbers of one step."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


def _mlflow() -> Any:
    try:
        return importlib.import_module("mlflow")
    except ImportError as error:
        raise InvalidConfigError(
            f"mlflow: not installed; pip install mlflow, or leave it out ({error})"
        ) from error
