"""A folder in the hub's layout: its configuration, its weights, and a model read from them.

The folder was fetched, or carried here by hand; nothing is downloaded. Weights are read from
safetensors files alone, because reading a pickle runs whatever code is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from calico_model.errors import CheckpointError

CONFIG = "config.json"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_CARD = "README.md"
_MISMATCH = "ignore_mismatched_sizes"  # what transformers advises then
_OTHER_SHAPES = f"its tensors have other shapes than its {CONFIG} says"
_CHUNK = 8 * 2**20
M = TypeVar("M")


@dataclass(frozen=True)
class HubFolder:
    """A model's folder that was looked at, not yet read.

    Attributes:
        path: the folder.
        config: what its config.json says.
        processor: how its images are prepared; empty where the folder does not say.
        weights: the safetensors files.
    """

    path: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def model_type(self) -> str:
        """The hub's word for the class of model, "" if there is none."""
        return str(self.config.get("model_type", ""))

    @property
    def weight_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(path.stat().st_size for path in self.weights)

    @property
    def licence(self) -> str:
        """The licence that the folder's model card states, or ""."""
        card = self.path / _CARD
        if not card.is_file():
            return ""
        head = card.read_text("utf-8", "replace").split("\n---", 1)[0]
        stated = re.search(r"^license:\s*(\S+)\s*$", head, re.MULTILINE)
        return "" if stated is None else stated[1].strip("\"'")

    def digest(self) -> str:
        """Returns the sha256 of configuration and weights; reads all of them."""
        digest = sha256(json.dumps([self.config, self.processor], sort_keys=True).encode())
        for path in self.weights:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()


def look_into(path: Path) -> HubFolder:
    """Looks at a folder in the hub's layout.

    Raises:
        CheckpointError: no folder, no configuration, or no safetensors weights; names the file.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected a folder with {CONFIG} and {_WHOLE}")
    config = _read(path / CONFIG)
    if config is None:
        raise CheckpointError(f"{path / CONFIG}: expected the model's configuration, found none")
    processor: Mapping[str, Any] = {}
    for name in reversed(_PROCESSORS):
        found = _read(path / name) or {}
        processor = found.get("image_processor", found) or processor
    return HubFolder(path, config, processor, _weights(path))


def _weights(path: Path) -> tuple[Path, ...]:
    whole = path / _WHOLE
    if whole.is_file():
        return (whole,)
    index = _read(path / _INDEX)
    if index is None:
        raise CheckpointError(f"{whole}: expected the weights, found none")
    shard_of = index.get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f"{path / _INDEX}: expected weight_map, the file of every tensor")
    names = sorted({str(name) for name in shard_of.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{path / _INDEX}: expected files of the folder, got {outside[0]!r}")
    if missing := [name for name in names if not (path / name).is_file()]:
        raise CheckpointError(f"{path / missing[0]}: {_INDEX} names it, and it is not there")
    return tuple(path / name for name in names)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


def load_model(model_class: type[M], folder: HubFolder, device: str, *, config: object = None) -> M:
    """Reads a model of `transformers` in float32, for inference.

    Args:
        model_class: a `PreTrainedModel`.
        folder: with its weights.
        device: where it runs: cpu, cuda or cuda:N.
        config: a configuration of that class instead of the folder's own.

    Raises:
        CheckpointError: the files are not those of this class, or tensors are missing or not
            finite.
    """
    import torch
    from transformers.utils import logging

    from calico_model.modeling.backbone_trunk import hold_weights

    logging.disable_progress_bar()  # the log of a server is no terminal
    loader: Any = model_class
    try:
        model, report = loader.from_pretrained(
            folder.path,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises nearly everything
        reason = _OTHER_SHAPES if _MISMATCH in str(error) else str(error)
        raise CheckpointError(
            f"{folder.path}: no {model_class.__name__} can be read from it: {reason}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder.path}: the weights lack {len(missing)} tensors of {model_class.__name__}, "
            f"such as {missing[0]}"
        )
    hold_weights(model, folder.path)
    model.requires_grad_(False)
    prepared: M = model.eval().to(device)
    return prepared


def load_tokenizer(folder: HubFolder) -> Any:
    """Reads the tokenizer of `transformers` of a folder.

    Raises:
        CheckpointError: its files are missing.
    """
    from transformers import AutoTokenizer

    # Without a vocabulary transformers makes up an empty one.
    if not any((folder.path / name).is_file() for name in _VOCABULARIES):
        raise CheckpointError(
            f"{folder.path}: expected the files of a tokenizer: one of {', '.join(_VOCABULARIES)}"
        )
    try:
        return AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
    except Exception as error:  # transformers raises nearly everything
        raise CheckpointError(
            f"{folder.path}: expected the files of a tokenizer: {error}"
        ) from error


def load_image_processor(processor_class: type[M], folder: HubFolder) -> M:
    """Reads an image processor of `transformers` that does without torchvision.

    Raises:
        CheckpointError: its configuration is missing.
    """
    loader: Any = processor_class
    try:
        processor: M = loader.from_pretrained(folder.path, local_files_only=True)
    except Exception as error:  # transformers raises nearly everything
        raise CheckpointError(
            f"{folder.path}: expected {_PROCESSORS[0]}, how images are prepared: {error}"
        ) from error
    return processor
