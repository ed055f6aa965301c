"""Frozen features of the training scenes: encoded once, read by every row.

Kept in bfloat16, about 0.3 MiB a scene at calico-tiny's size, so that four thousand scenes take
1.2 GiB of disk and, once read, of page cache that all processes share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from calico_model.data.pool import ScenePool
from calico_model.feature_store import FeatureStore
from calico_model.features import ImageFeatures, concatenate, image_key
from calico_model.modeling.inputs import Pixels
from calico_model.modeling.model import Calico
from calico_model.training.batches import batch_scenes
from calico_model.training.frozen import encoder_fingerprint, rounded

_BATCH = 32
_CEILING_BYTES = 2**40  # the disk's own limit is nearer, and checked


class SceneFeatures:
    """The features of a pool's scenes, by position.

    Attributes:
        store: where they are.
    """

    def __init__(self, model: Calico, pool: ScenePool, folder: Path) -> None:
        """Opens the store of a model's encoders in `folder`."""
        encoder = encoder_fingerprint(model)
        self.store = FeatureStore(folder, encoder=encoder, max_bytes=_CEILING_BYTES)
        self._pool = pool

    @torch.inference_mode()
    def fill(
        self, model: Calico, *, on_progress: Callable[[int], None] = lambda done: None
    ) -> None:
        """Encodes the scenes that are missing.

        Args:
            model: the one the store was opened for, in evaluation mode.
            on_progress: called with the number of scenes that are there.

        Raises:
            InvalidConfigError: more than the disk has left.
        """
        missing = [i for i in range(len(self._pool)) if self._key(i) not in self.store]
        for first in range(0, len(missing), _BATCH):
            picks = missing[first : first + _BATCH]
            scenes = batch_scenes([self._pool.scene(i) for i in picks])
            features = rounded(model.encode(Pixels(scenes.pixels)), torch.bfloat16)
            if not first:
                self.store.reserve(len(missing), features.nbytes // len(picks))
            for row, index in enumerate(picks):
                self.store.put(self._key(index), features.image(row))
            on_progress(len(self._pool) - len(missing) + first + len(picks))

    def of(self, indices: Sequence[int]) -> ImageFeatures:
        """Returns float32 features of some scenes, in the order given.

        Raises:
            CheckpointError: missing or damaged; the message names the file.
        """
        found = concatenate([self.store.get(self._key(i)) for i in indices])
        return rounded(found, torch.float32)

    def _key(self, index: int) -> str:
        return image_key(self._pool.scene(index).image)
