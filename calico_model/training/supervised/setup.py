"""Model, tokenizer and readers of a fine-tuning, checked and on their device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import torch
from accelerate import Accelerator

from calico_model.data.groups import GroupSet
from calico_model.data.opening import open_groups
from calico_model.data.samples import Sample, list_samples
from calico_model.errors import InvalidRecordError
from calico_model.inference.feature_store import FeatureStore
from calico_model.loading.checkpoints import fingerprint, load_model
from calico_model.loading.placement import Placement
from calico_model.modeling.adapter import mark_trainable
from calico_model.modeling.model import Calico
from calico_model.training.engine import OnProgress, TrainingProgress
from calico_model.training.frozen import ImageKeys, encoder_fingerprint, fill, freeze
from calico_model.training.supervised.batches import SampleReader
from calico_model.training.supervised.objective import enable_checkpointing
from calico_model.training.supervised.recipe import FinetuneRecipe


@dataclass(frozen=True)
class FinetuneInputs:
    """Folders a fine-tuning reads.

    Attributes:
        weights: model folder to start from.
        data: records to learn: a folder of ours, or MixedParts (see `open_groups`).
        validation: records to validate on; None holds some groups of `data` back.
        cache: folder of kept features; None encodes every image whenever it is met.
        cache_bytes: ceiling of that folder.
    """

    weights: Path
    data: Path
    validation: Path | None = None
    cache: Path | None = None
    cache_bytes: int = 200 * 2**30


@dataclass(frozen=True)
class FinetuneMaterial:
    """Model and data of a run.

    Attributes:
        model: on its device; only the adapter is trainable, and in float32.
        base: fingerprint of the weights.
        data: hash of the records.
        training, validation: readers; no validation is None.
    """

    model: Calico
    base: str
    data: str
    training: SampleReader
    validation: SampleReader | None

    def identity(self) -> dict[str, object]:
        """Values that must be the same when a run is resumed, beside the recipe."""
        return {"base": self.base, "data": self.data}


def prepare(
    recipe: FinetuneRecipe,
    inputs: FinetuneInputs,
    accelerator: Accelerator,
    on_progress: OnProgress,
) -> FinetuneMaterial:
    """Opens everything; fills the feature cache if there is one.

    Raises:
        InvalidConfigError: the features do not fit the cache.
        InvalidRecordError: broken records, or none that can be asked about.
        CheckpointError: broken weights.
    """
    folder = open_groups(inputs.data)
    checked = folder if inputs.validation is None else open_groups(inputs.validation)
    training_samples, validation_samples = _split(
        recipe, folder, None if checked is folder else checked
    )
    torch.manual_seed(recipe.seed)  # LoRA's first matrices
    place = Placement(recipe.precision, str(accelerator.device))
    model, tokenizer = load_model(inputs.weights, placement=place)
    mark_trainable(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    freeze(model)
    if recipe.checkpointing:
        enable_checkpointing(model)
    store = None
    if inputs.cache is not None:
        store = FeatureStore(
            inputs.cache, encoder=encoder_fingerprint(model), max_bytes=inputs.cache_bytes
        )

    def reader(source: GroupSet, keys: ImageKeys, samples: tuple[Sample, ...]) -> SampleReader:
        if store is not None:
            share = (accelerator.process_index, accelerator.num_processes)
            fill(store, model, source, keys, share=share, on_image=tell)
            accelerator.wait_for_everyone()
            # On several machines the folder may have this machine's share alone.
            fill(store, model, source, keys, share=_share_here(accelerator), on_image=tell)
            accelerator.wait_for_everyone()
        return SampleReader(source, samples, tokenizer, model.config, keys, store)

    def tell(done: int, total: int) -> None:
        on_progress(TrainingProgress("encoding images", done, total))

    keys = ImageKeys(folder)
    validation_keys = keys if checked is folder else ImageKeys(checked)
    training = reader(folder, keys, training_samples)
    validation = None
    if validation_samples:
        validation = reader(checked, validation_keys, validation_samples)
    data = _content(folder) if checked is folder else f"{_content(folder)} {_content(checked)}"
    return FinetuneMaterial(model, fingerprint(inputs.weights), data, training, validation)


def _share_here(accelerator: Accelerator) -> tuple[int, int]:
    """Which process this is of those of its machine; machines have the same number of them."""
    index = torch.tensor([accelerator.local_process_index], device=accelerator.device)
    return accelerator.local_process_index, int(accelerator.gather(index).max()) + 1


def _split(
    recipe: FinetuneRecipe, folder: GroupSet, validation: GroupSet | None
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Samples of training and of validation; groups of the same images stay together."""
    learned = list_samples(folder, most_objects=recipe.most_objects, with_empty=recipe.with_empty)
    checked = list_samples(validation or folder, most_objects=1, with_empty=recipe.with_empty)
    if validation is None:
        held_out = _held_out(recipe, folder)
        checked = tuple(s for s in checked if folder.image_ids(s.group) in held_out)
        learned = tuple(s for s in learned if folder.image_ids(s.group) not in held_out)
    if not learned:
        raise InvalidRecordError("data: expected records with at least one question to learn")
    return learned, checked


def _held_out(recipe: FinetuneRecipe, folder: GroupSet) -> set[tuple[int, ...]]:
    """Picks the sets of images whose hashes are smallest, the recipe's share of them."""
    every = {folder.image_ids(index) for index in range(len(folder))}
    ranked = sorted(every, key=lambda ids: sha256(f"{recipe.seed}/{sorted(ids)}".encode()).digest())
    return set(ranked[: math.ceil(recipe.holdout * len(ranked))])


def _content(groups: GroupSet) -> str:
    """Hash of the records, in their order."""
    digest = sha256()
    for index in range(len(groups)):
        record = (
            groups.image_ids(index),
            groups.image_names(index),
            groups.common_objects(index),
            groups.comparison(index),
        )
        digest.update(msgspec.json.encode(record))
    return digest.hexdigest()[:16]
