"""Help while annotating: what a click, a box or an accepted region says about a group.

Beside predictor.py: owns nothing but the use of its model, lock and feature cache. Once a group is
opened no encoder runs again. Each method is one mechanism of assist/.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_model.assist import clicking, referring
from calico_model.assist.clicking import MaskPrompt, Refined
from calico_model.assist.referring import Reference
from calico_model.predictor import Predictor
from calico_model.types import GroupPrediction, ImageGroup


class Assistant:
    """The model of a predictor, asked about single places.

    Attributes:
        version: names the weights that answer.
    """

    def __init__(self, predictor: Predictor, adapter: str | None = None) -> None:
        """Asks `predictor` with an adapter in its set, or with None the bare base."""
        self._predictor, self._adapter = predictor, adapter
        self.version = adapter or predictor.version

    def refine(self, group: ImageGroup, image_index: int, prompt: MaskPrompt) -> Refined:
        """Outlines what clicks, a box and an earlier mask mean in one image of a group.

        Args:
            group: 1 to 8 images; only the one asked about is looked at.
            image_index: 0-based.
            prompt: in pixels of that image.

        Raises:
            InvalidMaskError: the earlier mask has another size than the image.
            CheckpointError: there is no adapter of that version.
        """
        alone = group.only(image_index)
        with self._predictor.looking(alone, adapter=self._adapter) as look:
            return clicking.refine(look.model, look.features, alone.sizes_hw[0], prompt)

    def refer(
        self, group: ImageGroup, names: Sequence[tuple[str, str | None]], said: GroupPrediction
    ) -> tuple[Reference, ...]:
        """Outlines named things wherever they are in a group.

        Args:
            group: 1 to 8 images.
            names: what to look for, each with the object it belongs to or None.
            said: what the same weights predicted for the group; tells what the images show.

        Returns:
            One per name; a thing that is on no image has no parts, and is absent on all.

        Raises:
            CheckpointError: there is no adapter of that version.
        """
        with self._predictor.looking(group, adapter=self._adapter) as look:
            return tuple(
                referring.refer(
                    look.model,
                    look.tokenizer,
                    look.features,
                    group.sizes_hw,
                    label,
                    referring.shown_objects(said.answers, len(group), owner=owner),
                )
                for label, owner in names
            )
