"""The training scenes with their frozen features: encoded once, read by every row.

Features are stored in bfloat16, about 0.3 MiB per scene at calico-tiny's size. Four thousand scenes
take 1.2 GiB of disk and, once read, of page cache, which all processes share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from calico_model.config import CalicoConfig
from calico_model.data.pool import ScenePool
from calico_model.inference.feature_store import FeatureStore
from calico_model.modeling.features import ImageFeatures, Pixels, concatenate
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.frozen import encoder_fingerprint, rounded
from calico_model.training.pretraining.batches import TrainingBatch, batch_scenes, group_batch
from calico_model.types import image_key
from research.ablation.plan import TrialPlan

_BATCH = 32
_CEILING_BYTES = 2**40  # the disk's own limit is nearer, and checked


class SceneFeatures:
    """The features of a pool's scenes, by index of the scene.

    Attributes:
        store: the features on disk, by content of the image.
    """

    def __init__(self, model: Calico, pool: ScenePool, folder: Path) -> None:
        """Opens the store of a model's encoders in `folder`."""
        encoder = encoder_fingerprint(model)
        self.store = FeatureStore(folder, encoder=encoder, max_bytes=_CEILING_BYTES)
        self._pool = pool

    @torch.inference_mode()
    def fill(
        self, model: Calico, *, on_progress: Callable[[int], None] = lambda _done: None
    ) -> None:
        """Encodes the scenes whose features are missing.

        Args:
            model: the model the store was opened for, in evaluation mode.
            on_progress: called with the number of scenes that are encoded.

        Raises:
            InvalidConfigError: the features need more space than the disk has left.
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
        """Returns float32 features of the scenes of `indices`, in that order.

        Raises:
            CheckpointError: features are missing or damaged; the message names the file.
        """
        features = concatenate([self.store.get(self._key(i)) for i in indices])
        return rounded(features, torch.float32)

    def _key(self, index: int) -> str:
        return image_key(self._pool.scene(index).image)


@dataclass(frozen=True)
class Scenes:
    """Source of training batches.

    Attributes:
        pool: the scenes.
        features: of the scenes.
        tokenizer: turns questions and answers about the scenes into tokens.
    """

    pool: ScenePool
    features: SceneFeatures
    tokenizer: Tokenizer

    def batch(self, config: CalicoConfig, plan: TrialPlan, seed: int, step: int) -> TrainingBatch:
        """Draws the pairs, questions and masks of one step; features come from the store.

        The batch depends on plan, seed and step alone, so that every row sees the same questions
        about the same scenes in the same order.
        """
        rng = np.random.default_rng((seed, step))
        pairs = [self.pool.draw_indices(rng, 2) for _ in range(plan.pairs)]
        batch = group_batch(
            [[self.pool.scene(i) for i in pair] for pair in pairs],
            self.tokenizer,
            rng,
            queries=config.qformer.queries,
            questions=1,
            masks=plan.masks,
            side=config.mask_side,
            system_prompt=config.system_prompt,
        )
        return replace(batch, features=self.features.of([i for pair in pairs for i in pair]))
