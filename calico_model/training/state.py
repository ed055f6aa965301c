"""The resumable state of a training on disk: what learned, AdamW's moments, and where it is.

`state/newest.json` names the folder of the newest state and the hash of its tensors. A state is
written whole into a folder of its own before the name changes, so a kill or a full disk at any
moment leaves the last one. Nothing of the frozen weights is in it, nor of how processes divide it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.staging import file_sha256, recover, replace_text, staged_folder

_NEWEST, _TENSORS = "newest.json", "state.safetensors"
_WEIGHT, _MOMENTS = "weight", ("exp_avg", "exp_avg_sq", "step")

TensorName = Callable[[str, str], str]
""""weight", or a moment of AdamW, and a parameter's name -> name of the tensor in a state."""


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        step: optimiser steps done.
        best_loss: lowest validation loss so far, or None.
        best_step: when it was reached.
        history: terms of the steps since the last row of the curve.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    history: tuple[dict[str, float], ...] = field(default=())


class StateFolder:
    """The states of one run.

    Args:
        folder: `state` of the run folder.
        recipe: what must be the same in all parts of the run.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, object]) -> None:
        self._folder, self._recipe = folder, dict(recipe)

    def save(self, position: Position, tensors: dict[str, Tensor]) -> None:
        """Writes a state and removes the ones before it.

        Raises:
            CheckpointError: the disk is full or refuses; the state before stays.
        """
        name = f"step-{position.step:07d}"
        with staged_folder(self._folder / name) as staged:
            save_file(tensors, staged / _TENSORS)
        newest = {
            "step": position.step,
            "folder": name,
            "sha256": file_sha256(self._folder / name / _TENSORS),
            "best_loss": position.best_loss,
            "best_step": position.best_step,
            "history": list(position.history),
            "recipe": self._recipe,
        }
        replace_text(self._folder / _NEWEST, json.dumps(newest))
        self._sweep(name)

    def load(self) -> tuple[Position, dict[str, Tensor]] | None:
        """Reads the newest state; None when the run is new.

        Raises:
            InvalidConfigError: the state was made by another recipe; names the first difference.
            CheckpointError: a file is missing, unreadable, or not what was written.
        """
        path = self._folder / _NEWEST
        if not path.is_file():
            return None
        where = f"{self._folder.name}/{_NEWEST}"
        try:
            newest = json.loads(path.read_text("utf-8"))
            recipe, name = dict(newest["recipe"]), str(newest["folder"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{where}: not a readable state: {error!r}") from error
        check_same(recipe, self._recipe)
        recover(self._folder / name)
        tensors_path = self._folder / name / _TENSORS
        where = f"{self._folder.name}/{name}/{_TENSORS}"
        try:
            position = Position(
                int(newest["step"]),
                newest["best_loss"],
                int(newest["best_step"]),
                tuple(newest["history"]),
            )
            if file_sha256(tensors_path) != newest["sha256"]:
                raise ValueError("its content is not what was written")
            tensors = dict(load_file(tensors_path))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{where}: not a readable state: {error}") from error
        return position, tensors

    def _sweep(self, kept: str) -> None:
        for old in (*self._folder.glob("step-*"), *self._folder.glob(".step-*")):
            if old.name != kept:
                shutil.rmtree(old, ignore_errors=True)


def check_same(before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Checks that a state was made by the recipe that goes on from it.

    Raises:
        InvalidConfigError: it was not; names the first difference.
    """
    for name, value in now.items():
        if before.get(name) != value:
            raise InvalidConfigError(
                f"{name}: the run was started with {before.get(name)!r}, got {value!r}; "
                "choose another output folder"
            )


def gather_state(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, name_of: TensorName
) -> dict[str, Tensor]:
    """Returns parameters and AdamW's moments as whole tensors; every process must ask."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[name_of(_WEIGHT, name)] = gather(parameter)
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[name_of(moment, name)] = gather(value)
    return tensors


def restore_state(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    name_of: TensorName,
) -> None:
    """Puts what `gather_state` returned back into parameters and optimiser.

    Raises:
        CheckpointError: a parameter is missing or has another shape.
    """
    for name, parameter in parameters.items():
        weight = tensors.get(name_of(_WEIGHT, name))
        if weight is None or weight.shape != parameter.shape:
            raise CheckpointError(f"state: {name}: expected shape {tuple(parameter.shape)}")
        _copy_whole(parameter, weight)
        saved = {m: tensors[name_of(m, name)] for m in _MOMENTS if name_of(m, name) in tensors}
        if saved:
            optimizer.state[parameter] = {
                m: value if m == "step" else _divided_as(parameter, value)
                for m, value in saved.items()
            }


def gather(tensor: Tensor) -> Tensor:
    """Returns a copy of a tensor, divided or not, on the CPU; every process must ask."""
    whole = tensor.detach()
    if isinstance(whole, DTensor):
        whole = whole.full_tensor()
    return whole.cpu().clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def _copy_whole(target: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into one that may be divided over processes."""
    value = value.to(target.device, target.dtype)
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements)
    target.copy_(value)


def _divided_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Returns a whole tensor divided, and placed, as a parameter is."""
    divided = torch.empty_like(parameter, requires_grad=False)
    _copy_whole(divided, value)
    return divided
