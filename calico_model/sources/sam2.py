"""SAM 2 and 2.1, EdgeTAM and the SAM 3 tracker, with the classes of `transformers`.

All three answer clicks, boxes and an earlier mask on single images. The public folders are those of
the video models: their image part is read from them, and of SAM 2 its memory (sam2_series.py).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import EdgeTamConfig, EdgeTamModel, Sam2Model, Sam3TrackerModel

from calico_model.errors import CheckpointError
from calico_model.sources.frames import Normalisation, StretchedFrame
from calico_model.sources.hub_folder import HubFolder, load_model
from calico_model.sources.prompted import (
    PromptedSegmenter,
    PromptTensors,
    count_parameters,
    read_normalisation,
)
from calico_model.sources.repvit import RepVitConfig
from calico_model.sources.source import Ability, SourceDescription

_HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # SAM 3's


class Sam2Segmenter(PromptedSegmenter):
    """A segmenter with the prompt encoder and the mask decoder of SAM 2.

    Args:
        description: of the source.
        model: a `Sam2Model`, `EdgeTamModel` or `Sam3TrackerModel`.
        normalisation: of the pixels.
        device: where the model is.
    """

    def __init__(
        self,
        description: SourceDescription,
        model: Sam2Model | EdgeTamModel | Sam3TrackerModel,
        normalisation: Normalisation,
        device: str,
    ) -> None:
        frame = StretchedFrame(_side(model.prompt_encoder.input_image_size), normalisation)
        super().__init__(description, frame, _side(model.prompt_encoder.mask_input_size), device)
        self._model: Any = model

    def _embed(self, pixels: Tensor) -> Sequence[Tensor]:
        return tuple(self._model.get_image_embeddings(pixels))

    def _decode(self, embedded: Sequence[Tensor], prompt: PromptTensors) -> tuple[Tensor, Tensor]:
        answer = self._model(image_embeddings=list(embedded), **prompt.arguments())
        return answer.pred_masks[0, 0], answer.iou_scores[0, 0]


def _side(size: Any) -> int:
    """The side of a square that is given as one number or two."""
    return int(size if isinstance(size, int) else size[0])


def open_sam2(name: str, folder: HubFolder, licence: str, device: str) -> Sam2Segmenter:
    """Reads SAM 2 or 2.1 from a folder of the hub.

    Raises:
        CheckpointError: the folder does not hold it, or lacks tensors.
    """
    model = load_model(Sam2Model, folder, device)
    return _segmenter(name, folder, licence, device, model, Normalisation())


def open_edgetam(name: str, folder: HubFolder, licence: str, device: str) -> Sam2Segmenter:
    """Reads EdgeTAM from a folder of the hub, with a backbone that does not need timm.

    Raises:
        CheckpointError: the folder does not hold it, has another backbone, or lacks tensors.
    """
    model = load_model(EdgeTamModel, folder, device, config=_edgetam_config(folder))
    return _segmenter(name, folder, licence, device, model, Normalisation())


def open_sam3_tracker(name: str, folder: HubFolder, licence: str, device: str) -> Sam2Segmenter:
    """Reads the tracker of SAM 3 from a folder of the hub.

    Raises:
        CheckpointError: the folder does not hold it, or lacks tensors.
    """
    model = load_model(Sam3TrackerModel, folder, device)
    return _segmenter(name, folder, licence, device, model, _HALF)


def _edgetam_config(folder: HubFolder) -> EdgeTamConfig:
    """The folder's configuration, in which the backbone is ours."""
    config = copy.deepcopy(dict(folder.config))
    backbone = config.get("vision_config", {}).get("backbone_config", {})
    architecture = str(backbone.get("architecture", ""))
    if backbone.get("model_type") != RepVitConfig.model_type and "repvit_m1" not in architecture:
        raise CheckpointError(
            f"{folder.path}: expected the backbone repvit_m1, got {architecture!r}"
        )
    config["vision_config"]["backbone_config"] = {"model_type": RepVitConfig.model_type}
    return EdgeTamConfig.from_dict(config)


def _segmenter(
    name: str,
    folder: HubFolder,
    licence: str,
    device: str,
    model: Any,
    otherwise: Normalisation,
) -> Sam2Segmenter:
    description = describe_prompted(name, folder, licence, model)
    return Sam2Segmenter(description, model, read_normalisation(folder, otherwise), device)


def describe_prompted(name: str, folder: HubFolder, licence: str, model: Any) -> SourceDescription:
    """Returns the description of a source of clicks and boxes."""
    abilities = frozenset({Ability.CLICK, Ability.BOX})
    return SourceDescription(name, abilities, folder.digest(), licence, count_parameters(model))
