"""The entry point of interactive annotation: clicks, boxes and accepted regions of a group.

`Assistant` uses the model, lock and caches of a `Predictor` and owns nothing else. Once a group's
features are cached no encoder runs again. Each method is one mechanism of `interactive/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calico_model.inference.prompt import Box, MaskPrompt
from calico_model.inference.teacher_forcing import make_name_prompts
from calico_model.interactive import box_description, clicks, referring
from calico_model.interactive.clicks import Refined
from calico_model.interactive.naming import descriptors, name_regions
from calico_model.interactive.naming.closed_set import ClosedSet, Named, Outline
from calico_model.interactive.propagate import series, transfer
from calico_model.interactive.propagate.transfer import Proposal
from calico_model.interactive.referring import Reference
from calico_model.predictor import ModelSession, Predictor
from calico_model.types import BoolMask, GroupPrediction, ImageGroup, PartMask
from calico_model.vocabulary import normalise


class Assistant:
    """The model of a predictor, with one adapter or none, for an annotator.

    Attributes:
        version: of the adapter, or else of the base.
    """

    def __init__(self, predictor: Predictor, adapter: str | None = None) -> None:
        """Uses an adapter in the predictor's set, or with None the base."""
        self._predictor, self._adapter = predictor, adapter
        self.version = adapter or predictor.version

    @property
    def parameters(self) -> int:
        """Number of parameters of the network, without adapters."""
        return self._predictor.parameters

    def refine(
        self,
        group: ImageGroup,
        image_index: int,
        prompt: MaskPrompt,
        group_prediction: GroupPrediction | None = None,
    ) -> Refined:
        """Outlines the region of one image that clicks, a box and an earlier mask mean.

        Args:
            group: 1 to 8 images; only the features of the one image are used.
            image_index: 0-based.
            prompt: in pixels of that image.
            group_prediction: of the same weights for the group: a click may mean one of its parts.

        Raises:
            InvalidMaskError: the earlier mask has another size than the image.
            CheckpointError: there is no adapter of that version.
        """
        alone = group.only(image_index)
        with self._predictor.acquire(alone, adapter=self._adapter) as session:
            known = (
                () if group_prediction is None else tuple(group_prediction.of_image(image_index))
            )
            return clicks.refine(session.model, session.features, alone.images[0], prompt, known)

    def prepare_clicks(self, group: ImageGroup, image_index: int) -> None:
        """Does what the first click on an image would have to wait for.

        Args:
            group: 1 to 8 images; only the one image is encoded.
            image_index: 0-based.

        Raises:
            CheckpointError: there is no adapter of that version.
        """
        alone = group.only(image_index)
        with self._predictor.acquire(alone, adapter=self._adapter) as session:
            clicks.prepare(session.model, session.features, alone.images[0])

    def refer(
        self,
        group: ImageGroup,
        names: Sequence[tuple[str, str | None]],
        group_prediction: GroupPrediction,
    ) -> tuple[Reference, ...]:
        """Outlines named things on every image of a group that shows them.

        Args:
            group: 1 to 8 images.
            names: (name of the thing, name of the object it belongs to or None).
            group_prediction: of the same weights for the group; names the objects of the images.

        Returns:
            One per name; a thing that no image shows has no parts, and is absent on all images. A
            name that nothing knows is not searched, and says so.

        Raises:
            CheckpointError: there is no adapter of that version.
        """
        with self._predictor.acquire(group, adapter=self._adapter) as session:
            return tuple(
                self._refer(session, group, label, owner, group_prediction)
                for label, owner in names
            )

    def _refer(
        self,
        session: ModelSession,
        group: ImageGroup,
        label: str,
        owner: str | None,
        group_prediction: GroupPrediction,
    ) -> Reference:
        """Outlines one named thing: by the language model where it knows pictures and word."""
        head = session.model.dense_head
        learned = () if head is None else (*head.active.names.parts, *head.active.names.objects)

        def speaks(name: str) -> bool:
            knows = session.tokenizer.knows
            return session.is_familiar and (knows(name) or knows(normalise(name)))

        if not speaks(label):
            if normalise(label) in learned:
                return referring.find_learned(label, group_prediction.parts, len(group))
            return referring.unknown_name(
                label, lambda name: speaks(name) or normalise(name) in learned
            )
        return referring.segment_by_name(
            session.model,
            session.tokenizer,
            session.features,
            group.images,
            label,
            referring.shown_objects(group_prediction.phrases, len(group), owner=owner),
        )

    def describe_box(
        self, group: ImageGroup, image_index: int, box: Box, group_prediction: GroupPrediction
    ) -> PartMask:
        """Outlines the thing in a box and names it, by a name of the model's own.

        Args:
            group: 1 to 8 images; only the features of the one image are used.
            image_index: 0-based.
            box: in pixels of that image.
            group_prediction: of the same weights for the group.

        Returns:
            The region; its label is "" when the model has no name for it.

        Raises:
            InvalidMaskError: the box is not finite.
            CheckpointError: there is no adapter of that version.
        """
        alone = group.only(image_index)
        known = tuple(group_prediction.of_image(image_index))
        with self._predictor.acquire(alone, adapter=self._adapter) as session:
            described = box_description.describe_box(
                session.model, session.tokenizer, session.features, alone.images[0], box, known
            )
        return replace(described, image_index=image_index)

    def name(
        self,
        group: ImageGroup,
        outlines: Sequence[Outline],
        closed: ClosedSet,
        group_prediction: GroupPrediction | None = None,
    ) -> tuple[Named, ...]:
        """Names regions by labels of a closed set.

        Args:
            group: 1 to 8 images.
            outlines: regions of the group.
            closed: the labels, and what accepted regions of each label look like.
            group_prediction: of the same weights for the group; None leaves the language model out.

        Returns:
            One per region; its label is None if no label is likely enough.

        Raises:
            InvalidMaskError: an empty mask.
            CheckpointError: there is no adapter of that version.
        """
        with self._predictor.acquire(group, adapter=self._adapter) as session:
            return name_regions.name_regions(
                session.model,
                session.tokenizer,
                session.features,
                outlines,
                closed,
                group_prediction,
            )

    def describe(self, group: ImageGroup, outlines: Sequence[Outline]) -> NDArray[np.float32]:
        """Returns descriptors of regions, (n, d) float32 unit rows, to store under their labels.

        They come from the frozen encoders alone, so they hold for every adapter of the same base.

        Raises:
            InvalidMaskError: an empty mask.
            CheckpointError: there is no adapter of that version.
        """
        with self._predictor.acquire(group, adapter=self._adapter) as session:
            return descriptors.describe_outlines(session.model, session.features, outlines)

    def transfer(
        self, group: ImageGroup, part: PartMask, group_prediction: GroupPrediction | None = None
    ) -> tuple[Proposal, ...]:
        """Proposes an outlined part on the other images of its group.

        Args:
            group: 1 to 8 images.
            part: an accepted or just clicked region; with an empty label the part is found by its
                appearance alone.
            group_prediction: of the same weights for the group; names the objects of the images.

        Returns:
            One per other image, in order; the outlined image comes first if it shows further
            parts of that kind (needs a mask memory).

        Raises:
            InvalidMaskError: the outline is empty, too small to be seen, or of another size.
            CheckpointError: there is no adapter of that version.
        """
        with self._predictor.acquire(group, adapter=self._adapter) as session:
            objects = transfer.object_names(group_prediction, len(group))
            # The language model does not know the names of unfamiliar pictures.
            is_known = part.label and session.is_familiar
            named = self._name_prompts(session, group, part.label, objects) if is_known else None
            return transfer.transfer(
                session.model, session.features, group.images, part, named, objects
            )

    def carry(
        self, group: ImageGroup, part: PartMask, accepted: Mapping[int, BoolMask]
    ) -> tuple[Proposal, ...]:
        """Carries an outlined part to the images of an ordered series that follow it.

        Args:
            group: 1 to 8 images in order.
            part: an accepted or just clicked region.
            accepted: position -> (H, W) bool, the same part where it was accepted before.

        Returns:
            One per image after the outlined one without an accepted mask, in order; without parts
            where the part is lost.

        Raises:
            InvalidMaskError: an outline is empty or of another size.
            CheckpointError: there is no adapter of that version.
        """
        known = {**accepted, part.image_index: part.mask}
        with self._predictor.acquire(group, adapter=self._adapter) as session:
            carried = series.carry(session.model, session.features, group.images, known)
        return tuple(
            series.as_proposal(one, part) for one in carried if one.image > part.image_index
        )

    def other_pieces(
        self,
        group: ImageGroup,
        image_index: int,
        label: str,
        approved: Sequence[BoolMask] = (),
        group_prediction: GroupPrediction | None = None,
        *,
        most: int | None = None,
        remembers: bool = True,
    ) -> tuple[tuple[BoolMask, float], ...]:
        """Outlines the parts of one name one by one, beside those that are outlined already.

        Args:
            group: 1 to 8 images.
            image_index: 0-based.
            label: the parts' name.
            approved: (H, W) bool, parts of that name that are outlined already.
            group_prediction: as in `transfer`.
            most: number of further parts at most; None is all.
            remembers: False leaves the mask memory out.

        Returns:
            Mask and predicted IoU of each, without overlap; one mask of all parts without a memory.

        Raises:
            InvalidMaskError: an approved mask is empty, too small to be seen, or of another size.
            CheckpointError: there is no adapter of that version.
        """
        with self._predictor.acquire(group, adapter=self._adapter) as session:
            objects = transfer.object_names(group_prediction, len(group))
            return transfer.other_pieces(
                session.model,
                session.features,
                group.images,
                image_index,
                self._name_prompts(session, group, label, objects)[image_index],
                approved=approved,
                most=most,
                remembers=remembers,
            )

    def _name_prompts(
        self, session: ModelSession, group: ImageGroup, label: str, objects: tuple[str | None, ...]
    ) -> Tensor:
        """[SEG] prompts (n, C) of a name on every image, from the cache where it has them.

        The caller holds the model, which guards the cache.
        """
        cache, key = self._predictor.name_prompts, (self.version, group.keys, label, objects)
        prompts = cache.get(key)
        if prompts is None:
            prompts = make_name_prompts(
                session.model, session.tokenizer, session.features, [label], objects
            )[0]
            cache[key] = prompts
        return prompts
