"""Examples for the model: corrections with the frozen features of their images.

Each image is encoded once: its features are kept in memory and on disk, by content. Only the views
of new corrections are encoded in the update that learns them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from cachetools import LRUCache

from backend.errors import MediaError
from backend.learning.correction import Correction
from backend.learning.supervision import known_kinds, region_name, training_targets, true_parts
from backend.learning.training_material import CorrectedTask
from backend.types import GroupSource, Region
from calico_model.errors import CalicoError, CheckpointError, InvalidConfigError
from calico_model.inference.feature_store import FeatureStore
from calico_model.modeling.features import ImageFeatures, concatenate
from calico_model.predictor import Predictor
from calico_model.training.frozen import encoder_fingerprint, rounded
from calico_model.training.online.dense_images import ViewCache, group_views, with_dense
from calico_model.training.online.example import Example, RegionTarget, example_of, make_example
from calico_model.training.online.views import with_views
from calico_model.types import ImageGroup, LabeledGroup, PartMask, RegionKind, Supervision

_log = logging.getLogger(__name__)
_MOST_GROUPS = 192  # whose features are kept in memory between runs
_VIEW_BYTES = 512 * 2**20  # of views of corrected images, kept in memory between runs

_SizedFeatures = tuple[ImageFeatures, tuple[tuple[int, int], ...]]
"""Features of a group, and (height, width) of its images in pixels."""


class ExampleBuilder:
    """Makes examples of corrected tasks and of labeled groups.

    Args:
        predictor: encodes images.
        images: fetches the images of a task.
        features: folder of the stored features.
        feature_bytes: upper bound of that folder in bytes.
    """

    def __init__(
        self, predictor: Predictor, images: GroupSource, features: Path, *, feature_bytes: int
    ) -> None:
        self._predictor, self._images = predictor, images
        self._model = predictor.adapters.model
        self._store = FeatureStore(
            features, encoder=encoder_fingerprint(self._model), max_bytes=feature_bytes
        )
        self._features: LRUCache[object, _SizedFeatures] = LRUCache(_MOST_GROUPS)
        self._views = ViewCache(_VIEW_BYTES)

    def from_groups(self, name: str, groups: Sequence[LabeledGroup]) -> tuple[Example, ...]:
        """Returns examples of base data, keyed `name`-0, `name`-1, ..."""
        return tuple(
            example_of(group, self._encode(group.group), f"{name}-{number}")
            for number, group in enumerate(groups)
        )

    def from_tasks(self, tasks: Sequence[CorrectedTask]) -> tuple[Example, ...]:
        """Returns examples of the tasks that can be learned from, in their order."""
        examples = (self.from_task(task) for task in tasks)
        return tuple(example for example in examples if example is not None)

    def from_task(self, task: CorrectedTask) -> Example | None:
        """Returns the example of a task; None, with a warning, if it cannot be learned from."""
        try:
            features, sizes_hw = self._features_of(task)
            truth = true_parts(task.correction)
            return make_example(
                f"{task.project_id}/{task.correction.task.id}",
                features,
                sizes_hw,
                truth,
                targets=region_targets(task.correction, truth),
                known=known_kinds(task.correction),
            )
        except (MediaError, CalicoError) as error:
            _log.warning(
                "task %s cannot be learned from: %s",
                task.correction.task.id,
                error,
                extra={"event": "correction_unusable", "project": task.project_id},
            )
        return None

    def with_views(
        self,
        task: CorrectedTask,
        example: Example,
        *,
        group_view_count: int,
        image_view_count: int,
        names: Collection[str],
    ) -> Example:
        """Adds augmented views to the example of a task.

        Args:
            task: its images are fetched only if a view is missing.
            example: of the task.
            group_view_count: views of the whole group, for the language model.
            image_view_count: views of each image, for the dense head.
            names: labels of all examples of the update.
        """
        if self._model.dense_head is None:
            image_view_count = 0
        # A renamed label is no new correction, and has no new place in the journal.
        key = (*_group_key(task), task.seq, example.labels)
        kept = self._views.get(key, image_view_count) if not group_view_count else None
        group = None
        if group_view_count or (image_view_count and kept is None):
            group = self._images.fetch_group(task.correction.task)
        if group_view_count and group is not None:
            example = with_views(example, group.images, group_view_count, self._encode_once)
        if self._model.dense_head is None:
            return example
        if kept is None:
            images = () if group is None else group.images
            kept = group_views(
                example, images, image_view_count, self._predictor.encode_photo, names
            )
            self._views.put(key, kept)
        return with_dense(example, kept)

    def _features_of(self, task: CorrectedTask) -> _SizedFeatures:
        key = _group_key(task)
        sized = self._features.get(key)
        if sized is None:
            group = self._images.fetch_group(task.correction.task)
            sized = self._encode(group), group.sizes_hw
            self._features[key] = sized
        return sized

    def _encode(self, group: ImageGroup) -> ImageFeatures:
        """Returns the features of a group, from the disk where they are stored."""
        features = [self._stored(key) for key in group.keys]
        if any(stored is None for stored in features):
            fresh = self._predictor.encode(group)
            for index, key in enumerate(group.keys):
                if features[index] is None:
                    encoded = rounded(fresh.image(index), torch.bfloat16)
                    features[index] = encoded
                    self._keep(key, encoded)
        return concatenate([image for image in features if image is not None])

    def _encode_once(self, group: ImageGroup) -> ImageFeatures:
        """Returns the features of images that are not encoded again: they are not stored."""
        return rounded(self._predictor.encode(group), torch.bfloat16)

    def _stored(self, key: str) -> ImageFeatures | None:
        if key not in self._store:
            return None
        try:
            return self._store.get(key)
        except CheckpointError as error:
            _log.warning("%s", error, extra={"event": "feature_damaged"})
            return None

    def _keep(self, key: str, features: ImageFeatures) -> None:
        try:
            self._store.reserve(1, features.nbytes)
            self._store.put(key, features)
        except (InvalidConfigError, CheckpointError) as error:
            _log.warning("features are not kept: %s", error, extra={"event": "feature_not_kept"})


def region_targets(correction: Correction, truth: Sequence[PartMask]) -> tuple[RegionTarget, ...]:
    """Returns the training target of each region, with the mask of `truth` where there is one.

    Args:
        correction: of one task.
        truth: `true_parts` of it.
    """
    parts = {(part.image_index, part.label): part for part in truth}
    targets = []
    for target in training_targets(correction):
        region = target.region
        name = region_name(region, correction.vocabulary)
        if not name:
            continue
        part = parts.get((region.image_index, name))
        is_absence = Supervision.ABSENCE in target.supervision
        if part is None and not is_absence:
            continue
        shown = None if is_absence else part
        targets.append(RegionTarget(shown or _absent(region, name), target.supervision))
    return tuple(targets)


def _absent(region: Region, name: str) -> PartMask:
    return PartMask(region.image_index, region.kind or RegionKind.COMMON_PART, name, region.mask)


def _group_key(task: CorrectedTask) -> tuple[object, ...]:
    """Key of a task's images: equal as long as the task keeps its image URLs."""
    images = task.correction.task
    return task.project_id, images.id, images.image_urls
