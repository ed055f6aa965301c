"""What serving and learning are given to see with, as protocols: a model and a source of images.

The types of the answers are those of `calico_model`; the ones that need torch are imported for type
checkers alone, so that this module loads without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import calico_model
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, PartMask, Vector

if TYPE_CHECKING:
    from calico_model.inference.prompt import Box, MaskPrompt
    from calico_model.interactive.clicks import Refined
    from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline
    from calico_model.interactive.propagate.transfer import Proposal
    from calico_model.interactive.referring import Reference

SHIPPED_WEIGHTS = Path(calico_model.__file__).parent / "weights" / "calico-tiny"
"""What serves and learns where no other weights are configured."""


class NamedWeights(Protocol):
    """Weights that answer, in this process or in others."""

    @property
    def version(self) -> str:
        """Names the weights; equal weights have equal versions."""


class ServedModel(NamedWeights, Protocol):
    """One version of the model: the base weights, alone or with an adapter over them.

    Threads may call it at once. Wherever a `group_prediction` is passed, it is what the same
    version predicted for the group.
    """

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Asks the three questions about a group."""

    def predict_groups(self, groups: Sequence[ImageGroup]) -> Sequence[GroupPrediction]:
        """Asks them about several groups at once: faster, and equal but for rounding."""

    def encode(self, group: ImageGroup) -> None:
        """Encodes the images that have no features yet, so that a later call is quick."""

    def prepare_clicks(self, group: ImageGroup, image_index: int) -> None:
        """Does what the first click on an image of a group would have to wait for."""

    def describe(self, group: ImageGroup) -> Vector:
        """Returns how a group looks: (d,) float32 of length 1; alike groups have alike vectors."""

    def describe_regions(self, group: ImageGroup, outlines: Sequence[Outline]) -> Sequence[Vector]:
        """Returns how regions look: one (d,) float32 vector of length 1 per region."""

    def refine(
        self,
        group: ImageGroup,
        image_index: int,
        prompt: MaskPrompt,
        group_prediction: GroupPrediction | None = None,
    ) -> Refined:
        """Outlines what clicks, a box and an earlier mask mean in one image of a group."""

    def transfer(
        self, group: ImageGroup, part: PartMask, group_prediction: GroupPrediction | None
    ) -> Sequence[Proposal]:
        """Proposes an outlined part on the other images of a group."""

    def carry(
        self, group: ImageGroup, part: PartMask, accepted: Mapping[int, BoolMask]
    ) -> Sequence[Proposal]:
        """Carries an outlined part to the images of a series that follow it.

        Args:
            group: an ordered series.
            part: the outlined region.
            accepted: position -> mask of the same part, where it was accepted before.
        """

    def refer(
        self,
        group: ImageGroup,
        names: Sequence[tuple[str, str | None]],
        group_prediction: GroupPrediction,
    ) -> Sequence[Reference]:
        """Outlines named things, each with its owner or None, on every image of a group."""

    def look_into(
        self, group: ImageGroup, image_index: int, box: Box, group_prediction: GroupPrediction
    ) -> PartMask:
        """Outlines what a box shows and names it; the label is "" when no name is known."""

    def name(
        self,
        group: ImageGroup,
        outlines: Sequence[Outline],
        closed: ClosedSet,
        group_prediction: GroupPrediction | None = None,
    ) -> Sequence[Named]:
        """Names regions out of a closed label set."""


class AdaptableModel(ServedModel, Protocol):
    """The base weights, over which adapters answer as versions of their own."""

    def with_adapter(self, version: str, folder: Path) -> ServedModel:
        """Reads an adapter; returns the version that answers with it.

        Raises:
            CheckpointError: the adapter cannot be read, or belongs to other weights.
        """
