"""Weights on disk: one folder holds config.json, model.safetensors, tokenizer.json.

A folder of checkpoints released by others is read too, see `released`. Everything is checked
before anything is used: nothing is half loaded, nothing half written.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from calico_model.config import CalicoConfig
from calico_model.errors import CheckpointError
from calico_model.loading.placement import Placement, apply
from calico_model.loading.released.assembly import load_released, released_fingerprint
from calico_model.loading.released.plan import has_released_parts
from calico_model.modeling.adapter import base_state
from calico_model.modeling.add_ons import ADD_ONS
from calico_model.modeling.backbone_trunk import backbone_files
from calico_model.modeling.model import Calico
from calico_model.staging import file_sha256, staged_folder
from calico_model.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
BACKBONE = "photo_trunk"
"""Folder of a backbone's files inside a model folder."""


def save_model(model: Calico, tokenizer: Tokenizer, folder: Path, *, dtype: torch.dtype) -> None:
    """Writes a model folder, whole or not at all (see `staged_folder`).

    Args:
        model: any Calico; adapters are left out.
        tokenizer: its tokenizer.
        folder: replaced when it exists; other files in it (a model card) are kept.
        dtype: of matrices on disk; vectors and running statistics stay float32, counters as is.

    Raises:
        CheckpointError: the disk is full or refuses; the old folder stays as it was.
    """
    with staged_folder(folder) as staged:
        if folder.is_dir():
            shutil.copytree(folder, staged, dirs_exist_ok=True)
        state = {name: _for_disk(tensor, dtype) for name, tensor in base_state(model).items()}
        save_file(state, staged / WEIGHTS)
        (staged / WEIGHTS).chmod(0o644)  # written private; a service runs as another user
        config = _with_backbone(model.config, staged)
        (staged / CONFIG).write_text(config.to_json(), "utf-8")
        tokenizer.save(staged / TOKENIZER)


def _with_backbone(config: CalicoConfig, staged: Path) -> CalicoConfig:
    """Puts the files of a backbone beside the weights, so that a model folder is whole."""
    trunk = config.photo_trunk
    if trunk is None or not trunk.is_backbone:
        return config
    kept = staged / BACKBONE
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for path in backbone_files(Path(trunk.folder)):
        shutil.copyfile(path, kept / path.name)
    return replace(config, photo_trunk=replace(trunk, folder=BACKBONE))


def _for_disk(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.contiguous()
    return tensor.to(dtype if tensor.ndim > 1 else torch.float32).contiguous()


def load_model(
    folder: Path, *, device: str = "cpu", placement: Placement | None = None
) -> tuple[Calico, Tokenizer]:
    """Reads a model folder, ready to predict.

    Args:
        folder: as `save_model` writes it, or released checkpoints (`is_released`).
        device: where the weights go, in float32.
        placement: device and precision of each part, instead of `device`.

    Raises:
        CheckpointError: missing, truncated or mismatched file; the message names file and key.
        InvalidConfigError: config.json is not a valid configuration.
    """
    if is_released(folder):
        released = load_released(folder, placement=placement or Placement(device=device))
        for line in released.report.lines():
            _log.info("%s: %s", folder.name, line)
        return released.model, released.tokenizer
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder.name}/{CONFIG}: missing, and nothing else here is a released checkpoint"
        )
    for name in (WEIGHTS, TOKENIZER):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder.name}/{name}: missing")
    config = CalicoConfig.from_file(folder / CONFIG)
    if config.photo_trunk is not None and config.photo_trunk.is_backbone:
        there = folder.resolve() / config.photo_trunk.folder  # where it is absolute, it stays so
        config = replace(config, photo_trunk=replace(config.photo_trunk, folder=str(there)))
    tokenizer = Tokenizer.from_file(folder / TOKENIZER)
    if tokenizer.size > config.language.vocab_size:
        raise CheckpointError(
            f"{TOKENIZER}: {tokenizer.size} tokens, but the model has "
            f"{config.language.vocab_size} rows"
        )
    model = Calico(config)
    state = read_tensors(folder / WEIGHTS)
    names = [name for name in ADD_ONS if any(key.startswith(f"{name}.") for key in state)]
    if config.photo_trunk is None:
        # The heads of an earlier release read other maps: corrections are learned again.
        needing = ("dense_head", "familiarity", "photo_refiner")
        names = [name for name in names if name not in needing]
    model.add_on(names)
    load_base_state(model, state, where=f"{folder.name}/{WEIGHTS}")
    if placement is None:
        model.to(device)
    else:
        apply(model, placement)
    return model.eval().requires_grad_(False), tokenizer


def is_released(folder: Path) -> bool:
    """Whether a folder holds checkpoints released by others instead of one written here.

    Raises:
        CheckpointError: a weights file in it is damaged.
    """
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except FileNotFoundError:
        return has_released_parts(folder)
    except (OSError, ValueError):
        return False
    # The mark of a configuration of transformers, which every release of that kind has.
    return isinstance(config, dict) and "model_type" in config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        CheckpointError: truncated or not a safetensors file.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path.name}: not a readable safetensors file: {error}") from error


def load_base_state(model: Calico, state: dict[str, Tensor], *, where: str) -> None:
    """Copies tensors into a model after checking every name, shape and value.

    Tensors of add-ons that the model lacks are ignored.

    Raises:
        CheckpointError: a missing, unexpected, mis-shaped or non-finite tensor.
    """
    expected = base_state(model)
    lacking = tuple(f"{name}." for name in ADD_ONS if name not in model.add_ons)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(lacking)}
    if missing := sorted(set(expected) - set(state)):
        raise CheckpointError(f"{where}: missing {missing[0]} (and {len(missing) - 1} more)")
    if unexpected := sorted(set(state) - set(expected)):
        raise CheckpointError(f"{where}: unexpected {unexpected[0]}")
    for name, tensor in expected.items():
        given = state[name]
        if given.shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name}: expected shape {tuple(tensor.shape)}, got {tuple(given.shape)}"
            )
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            raise CheckpointError(f"{where}: {name}: holds values that are not finite")
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])


def fingerprint(folder: Path) -> str:
    """Returns the sha256 of a model folder's weights; names the base an adapter belongs to.

    A backbone in place of the photo trunk counts among the weights.

    Raises:
        CheckpointError: the configuration cannot be read.
    """
    if is_released(folder):
        return released_fingerprint(folder)
    digest = file_sha256(folder / WEIGHTS)
    trunk = CalicoConfig.from_file(folder / CONFIG).photo_trunk
    if trunk is None or not trunk.is_backbone:
        return digest
    return sha256(f"{digest} {trunk.kind}".encode()).hexdigest()
