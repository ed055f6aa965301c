"""A model that predicts and learns in one process, for simulations.

It takes the same steps as the backend and its trainer, without queue, gate and database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from calico_model.inference.dense_answers import answers_of_detections
from calico_model.inference.dense_detection import (
    Detection,
    detect_regions,
    weigh_detections,
)
from calico_model.inference.detection_odds import DetectionEvidence
from calico_model.inference.photo_masks import refine_photo_masks
from calico_model.inference.segments import Segment
from calico_model.modeling.adapter import Adapter
from calico_model.modeling.features import ImageFeatures
from calico_model.predictor import Predictor
from calico_model.training.frozen import rounded
from calico_model.training.online.dense_images import group_views, with_dense
from calico_model.training.online.example import Example, example_of, make_example
from calico_model.training.online.update import (
    Replay,
    UpdatePlan,
    UpdateProgress,
    find_update_domain,
    update_adapter,
)
from calico_model.training.online.views import with_views
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup
from research.simulation.oracle import oracle_targets


class InProcessLoop:
    """Predicts with the newest adapter and learns a new adapter from corrections.

    Attributes:
        adapter: the newest one, None before the first update.
    """

    def __init__(
        self,
        predictor: Predictor,
        replay: Sequence[LabeledGroup],
        plan: UpdatePlan,
        *,
        clock: Callable[[], float],
        on_progress: Callable[[UpdateProgress], None] = lambda _progress: None,
    ) -> None:
        """Encodes the groups to rehearse.

        Args:
            predictor: nobody else may use it.
            replay: groups of the data the base was trained on, to rehearse.
            plan: how every update learns.
            clock: monotonic seconds.
            on_progress: called after every step of an update.
        """
        self.adapter: Adapter | None = None
        self._predictor, self._plan = predictor, plan
        self._clock, self._on_progress = clock, on_progress
        self._base = tuple(
            example_of(labeled, predictor.encode(labeled.group), f"base-{number}")
            for number, labeled in enumerate(replay)
        )
        self._learned: list[tuple[Example, ImageGroup]] = []
        self._new: list[tuple[Example, ImageGroup]] = []
        self._updates = 0

    @property
    def version(self) -> str:
        """Version of the weights, with the number of updates since."""
        base = self._predictor.version
        return f"{base}+{self._updates}" if self._updates else base

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Predicts the regions of a group with the newest adapter."""
        return self._predictor.predict(group, adapter=self.version if self._updates else None)

    def detect(self, group: ImageGroup) -> list[tuple[Detection, DetectionEvidence, float]]:
        """Runs the dense head of the newest adapter on a group of photographs.

        Returns:
            Every detection, what speaks for it, and the adapter's shift of its log odds.
        """
        version = self.version if self._updates else None
        with self._predictor.acquire(group, adapter=version) as session:
            head = session.model.dense_head
            if head is None:
                return []
            dense = detect_regions(
                session.model, session.features, group.sizes_hw, group.images, is_alone=True
            )
            evidence = weigh_detections(dense.detections, head, len(group))
            shift = head.active.shift
        return [
            (detection, weighed, shift[detection.is_object])
            for detection, weighed in zip(dense.detections, evidence, strict=True)
        ]

    def draw(self, group: ImageGroup) -> list[Segment]:
        """Returns what is shown of a group of photographs, with masks and what speaks for them."""
        version = self.version if self._updates else None
        with self._predictor.acquire(group, adapter=version) as session:
            model, features = session.model, session.features
            dense = detect_regions(model, features, group.sizes_hw, group.images, is_alone=True)
            shown = answers_of_detections(dense, len(group)).segments
            return refine_photo_masks(model, features, shown, group.images)

    def correct(self, labeled: LabeledGroup, prediction: GroupPrediction) -> None:
        """Stores the truth of a group for the next update."""
        group = labeled.group
        example = make_example(
            f"correction-{len(self._learned) + len(self._new)}",
            self._predictor.encode(group),
            group.sizes_hw,
            labeled.parts,
            targets=oracle_targets(labeled, prediction),
            known=labeled.known,
        )
        self._new.append((example, group))

    def learn(self) -> float:
        """Makes one update with all new corrections; returns the seconds it took."""
        began = self._clock()
        known = [*self._new, *self._learned]
        _, speaks = find_update_domain(
            self._predictor.adapters.model, [example for example, _ in known], self._base
        )
        views = self._plan.views_for(len(self._new)) if speaks else 0
        spoken = [
            (with_views(example, group.images, views, self._encode), group)
            for example, group in self._new
        ]
        update = update_adapter(
            self._predictor.adapters,
            self._with_dense(spoken),
            Replay(self._with_dense(self._learned), self._base),
            self._plan,
            start=self.adapter,
            clock=self._clock,
            on_progress=self._on_progress,
        )
        old = self.version
        self._learned += self._new
        self._new = []
        self._updates += 1
        self.adapter = update.adapter
        self._predictor.adapters.add(self.version, update.adapter)
        self._predictor.adapters.drop(old)
        return self._clock() - began

    def _with_dense(self, groups: Sequence[tuple[Example, ImageGroup]]) -> tuple[Example, ...]:
        """Examples with augmented views of every image, the same views at every update."""
        if self._predictor.adapters.model.dense_head is None:
            return tuple(example for example, _ in groups)
        known = [*self._new, *self._learned]
        names = {label for example, _ in known for label in example.labels}
        views = self._plan.dense.views_for(sum(len(example) for example, _ in known))
        encode = self._predictor.encode_photo
        return tuple(
            with_dense(example, group_views(example, group.images, views, encode, names))
            for example, group in groups
        )

    def _encode(self, group: ImageGroup) -> ImageFeatures:
        return rounded(self._predictor.encode(group), torch.bfloat16)
