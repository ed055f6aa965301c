"""SAM and SAM-HQ, with the classes of `transformers`: clicks, boxes and an earlier mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import SamHQModel, SamModel

from calico_model.sources.frames import Normalisation, PaddedFrame
from calico_model.sources.hub_folder import HubFolder, load_model
from calico_model.sources.prompted import (
    PromptedSegmenter,
    PromptTensors,
    count_parameters,
    read_normalisation,
)
from calico_model.sources.source import Ability, SourceDescription

_CELLS_PER_TOKEN = 4  # an earlier mask has four cells on each side of a token


class SamSegmenter(PromptedSegmenter):
    """SAM or SAM-HQ.

    Args:
        description: of the source.
        model: a `SamModel` or `SamHQModel`.
        normalisation: of the pixels.
        device: where the model is.
    """

    def __init__(
        self,
        description: SourceDescription,
        model: SamModel | SamHQModel,
        normalisation: Normalisation,
        device: str,
    ) -> None:
        prompts: Any = model.config.prompt_encoder_config
        frame = PaddedFrame(int(prompts.image_size), normalisation)
        cells = _CELLS_PER_TOKEN * int(prompts.image_embedding_size)
        super().__init__(description, frame, cells, device)
        self._model: Any = model

    def _embed(self, pixels: Tensor) -> Sequence[Tensor]:
        if isinstance(self._model, SamHQModel):
            embedded, between = self._model.get_image_embeddings(pixels)
            return (embedded, *between)
        return (self._model.get_image_embeddings(pixels),)

    def _decode(self, embedded: Sequence[Tensor], prompt: PromptTensors) -> tuple[Tensor, Tensor]:
        arguments = prompt.arguments() | {"image_embeddings": embedded[0]}
        if isinstance(self._model, SamHQModel):
            arguments["intermediate_embeddings"] = list(embedded[1:])
        answer = self._model(**arguments)
        return answer.pred_masks[0, 0], answer.iou_scores[0, 0]


def open_sam(name: str, folder: HubFolder, licence: str, device: str) -> SamSegmenter:
    """Reads SAM or SAM-HQ from a folder of the hub.

    Raises:
        CheckpointError: the folder holds neither, or lacks tensors.
    """
    is_hq = folder.model_type == "sam_hq"
    model: Any = load_model(SamHQModel if is_hq else SamModel, folder, device)
    description = SourceDescription(
        name,
        frozenset({Ability.CLICK, Ability.BOX}),
        folder.digest(),
        licence,
        count_parameters(model),
    )
    return SamSegmenter(description, model, read_normalisation(folder, Normalisation()), device)
