"""Samples of records become training tensors, the same on every process and in every run.

Legend: M images in the pool, K masks, L logit side, S the network's square side.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calico_model.config import CalicoConfig
from calico_model.data.collate import TrainingTurns, Turn, collate_turns
from calico_model.data.groups import GroupSet
from calico_model.data.samples import Sample, SampleMask, WrittenSample, write_sample
from calico_model.errors import InvalidRecordError
from calico_model.inference.feature_store import FeatureStore
from calico_model.inference.images import mask_shares, scaled_size_hw, to_pixels
from calico_model.modeling.features import ImageFeatures, Pixels, concatenate
from calico_model.modeling.losses import IGNORED
from calico_model.tokenizer import Tokenizer
from calico_model.training.engine import move
from calico_model.training.frozen import ImageKeys
from calico_model.types import MAX_GROUP_SIZE, BoolMask

COUNTS = 1 + MAX_GROUP_SIZE
"""Length of `MicroBatch.counts`."""


@dataclass(frozen=True)
class SampleMasks:
    """K masks to decode, in the order of the turns' [SEG] tokens.

    Attributes:
        image: (K,) which of the M images.
        slot: (K,) 0-based position of that image in its conversation.
        target: (K, L, L) share of each cell that belongs to the mask.
        extent: (K, 2) cells covered by the image, down and across; the rest is padding.
    """

    image: Tensor
    slot: Tensor
    target: Tensor
    extent: Tensor


@dataclass(frozen=True)
class MicroBatch:
    """The data of one forward pass.

    Attributes:
        turns: teacher-forced conversations.
        masks: of their answers.
        pixels: of the M images, or None when their features are kept.
        features: of the M images, or None when they must be encoded.
        seed: of the dropout of this pass.
    """

    turns: TrainingTurns
    masks: SampleMasks
    pixels: Pixels | None
    features: ImageFeatures | None
    seed: int

    def to(self, device: torch.device) -> MicroBatch:
        """Moves all tensors."""
        return move(self, device)

    def counts(self) -> Tensor:
        """(COUNTS,) float64: answer tokens, and masks of each image position."""
        tokens = (self.turns.labels[:, 1:] != IGNORED).sum()[None]
        masks = torch.bincount(self.masks.slot, minlength=MAX_GROUP_SIZE)
        return torch.cat((tokens, masks)).double()


class DataOrder:
    """An endless, shuffled stream of sample numbers; every pass holds each sample once.

    It depends on its arguments alone, so any process can read any place.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._pass, self._order = -1, np.arange(count)

    def at(self, place: int) -> tuple[int, int]:
        """Returns (pass, sample number) at a 0-based place of the stream."""
        number, offset = divmod(place, self._count)
        if number != self._pass:
            rng = np.random.default_rng((self._seed, number))
            self._pass, self._order = number, rng.permutation(self._count)
        return number, int(self._order[offset])


class SampleReader:
    """Makes micro-batches of the samples of one folder."""

    def __init__(
        self,
        folder: GroupSet,
        samples: Sequence[Sample],
        tokenizer: Tokenizer,
        config: CalicoConfig,
        keys: ImageKeys,
        store: FeatureStore | None,
    ) -> None:
        self._folder, self._samples = folder, samples
        self._tokenizer, self._config = tokenizer, config
        self._keys, self._store = keys, store

    def __len__(self) -> int:
        return len(self._samples)

    def training(self, order: DataOrder, places: range, seed: int) -> MicroBatch:
        """Reads the samples at places of a stream, with drawn wordings and order of images."""
        written: list[WrittenSample] = []
        for place in places:
            number, index = order.at(place)
            choose = random.Random(f"{seed}/{number}/{index}")
            written.append(self._write(index, choose))
        words = np.random.SeedSequence((seed, places.start)).generate_state(1, np.uint64)
        return self._collate(written, int(words[0] >> np.uint64(1)))

    def validation(self, indices: range) -> MicroBatch:
        """Reads samples with the first wording and the images in the order of the record."""
        return self._collate([self._write(index, None) for index in indices], 0)

    def _write(self, index: int, choose: random.Random | None) -> WrittenSample:
        sample = self._samples[index]
        return write_sample(self._folder, sample, choose, self._config.system_prompt)

    def _collate(self, written: Sequence[WrittenSample], seed: int) -> MicroBatch:
        turns: list[Turn] = []
        masks: list[tuple[int, SampleMask]] = []
        image_ids: list[int] = []
        for sample in written:
            first = len(image_ids)
            image_ids.extend(sample.image_ids)
            turns.append(Turn(sample.prompt, sample.answer, tuple(range(first, len(image_ids)))))
            masks.extend((first + mask.slot, mask) for mask in sample.masks)
        collated = collate_turns(turns, self._tokenizer, self._config.qformer.queries)
        longest = collated.labels.shape[1]
        if longest > self._config.language.max_positions:
            raise InvalidRecordError(
                f"image {image_ids[0]}: question and answer take {longest} positions, but the "
                f"model has {self._config.language.max_positions}"
            )
        if len(collated.seg_row) != len(masks):
            raise AssertionError("every [SEG] of an answer has one mask")
        pixels = features = None
        if self._store is None:
            images = [self._folder.read_image(i) for i in image_ids]
            pixels = to_pixels(images, self._config)
        else:
            features = concatenate([self._store.get(self._keys[i]) for i in image_ids])
        return MicroBatch(collated, self._targets(masks), pixels, features, seed)

    def _targets(self, masks: Sequence[tuple[int, SampleMask]]) -> SampleMasks:
        side, logit_side = self._config.image_size, self._config.mask_side
        targets = [square_target(m.mask, side, logit_side) for _, m in masks]
        sizes = [scaled_size_hw((m.mask.shape[0], m.mask.shape[1]), side) for _, m in masks]
        return SampleMasks(
            torch.tensor([image for image, _ in masks], dtype=torch.long),
            torch.tensor([m.slot for _, m in masks], dtype=torch.long),
            torch.stack(targets) if targets else torch.zeros(0, logit_side, logit_side),
            torch.tensor(sizes, dtype=torch.float32).reshape(-1, 2) * (logit_side / side),
        )


def square_target(mask: BoolMask, side: int, logit_side: int) -> Tensor:
    """Brings a mask into the decoder's frame.

    Args:
        mask: (H, W) in its image's frame.
        side: the network's square side S.
        logit_side: L, divides S.

    Returns:
        (L, L) float16 share of each cell that belongs to the mask; padding is 0.
    """
    return mask_shares(mask, side, logit_side).half()


def cells_inside(extent: Tensor, logit_side: int) -> Tensor:
    """(K, L, L) share of each cell that is image, from (K, 2) covered cells down and across."""
    cells = torch.arange(logit_side, device=extent.device)
    covered = (extent[:, :, None] - cells).clamp(0, 1)  # (K, 2, L)
    return covered[:, 0, :, None] * covered[:, 1, None, :]
