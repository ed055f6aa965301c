"""CALICO's own decoder as one source among the others: clicks and boxes, on its cached features."""

from __future__ import annotations

from collections.abc import Sequence

from calico_model.assistant import Assistant
from calico_model.inference.prompt import MaskPrompt
from calico_model.sources.source import (
    OWN_SOURCE,
    Ability,
    Encoding,
    SourceDescription,
    SourceMask,
)
from calico_model.types import ImageGroup, RgbImage, image_key


class OwnSource:
    """A source with the abilities CLICK and BOX.

    Args:
        assistant: the model of a version; keeps the features of the images itself.
    """

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant

    def describe(self) -> SourceDescription:
        """Returns its name and abilities; the weights are named by their version."""
        abilities = frozenset({Ability.CLICK, Ability.BOX})
        licence = "see the model card of its weights"
        return SourceDescription(
            OWN_SOURCE, abilities, self._assistant.version, licence, self._assistant.parameters
        )

    def encode(self, image: RgbImage) -> Encoding:
        """Names an image; its features are computed with the first prompt and kept by the model."""
        group = ImageGroup((image,), (image_key(image),))
        return Encoding(group.sizes_hw[0], group, image.nbytes)

    def segment_prompt(self, encoding: Encoding, prompt: MaskPrompt) -> Sequence[SourceMask]:
        """Returns one mask.

        Raises:
            InvalidMaskError: the earlier mask of the prompt has another size than the image.
        """
        refined = self._assistant.refine(encoding.state, 0, prompt)
        return (SourceMask(refined.mask, min(max(refined.iou, 0.0), 1.0)),)
