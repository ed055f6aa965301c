"""SAM 2 with its memory: an accepted region carried through an ordered series.

The public folders of SAM 2 are those of the video model. Its image part answers clicks and boxes,
as `Sam2Segmenter` does; encoder and decoder are in memory once for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import Sam2Model, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from calico_model.errors import CheckpointError, InvalidMaskError
from calico_model.sources.frames import Normalisation
from calico_model.sources.hub_folder import HubFolder, load_model
from calico_model.sources.prompted import read_normalisation
from calico_model.sources.sam2 import Sam2Segmenter, describe_prompted, open_sam2
from calico_model.sources.source import Ability, SourceDescription, SourceMask
from calico_model.types import BoolMask, RgbImage

_VIDEO = "sam2_video"
_REGION = 1  # id of the only region of a session
_INSIDE = 0.5


class Sam2SeriesSegmenter(Sam2Segmenter):
    """A `PromptSource` and `SeriesSource`.

    Args:
        description: of the source, without the ability `SERIES`.
        model: of single images.
        video: of series; shares the parts of `model` from now on.
        normalisation: of the pixels.
        device: where both are.
    """

    def __init__(
        self,
        description: SourceDescription,
        model: Sam2Model,
        video: Sam2VideoModel,
        normalisation: Normalisation,
        device: str,
    ) -> None:
        description = replace(description, abilities=description.abilities | {Ability.SERIES})
        super().__init__(description, model, normalisation, device)
        shared: Any = video
        shared.vision_encoder = model.vision_encoder
        shared.prompt_encoder = model.prompt_encoder
        self._video: Any = shared

    @torch.no_grad()
    def carry_series(
        self, images: Sequence[RgbImage], accepted: Mapping[int, BoolMask]
    ) -> Mapping[int, SourceMask]:
        """Carries a region to the images that follow the first accepted one; see `SeriesSource`.

        Raises:
            InvalidMaskError: no accepted mask, or one of another size than its image.
        """
        if not accepted:
            raise InvalidMaskError("accepted: expected at least one mask, got none")
        pixels = torch.cat([self._frame.pixels(image) for image in images]).to(self._device)
        session = Sam2VideoInferenceSession(
            video=pixels,
            video_height=self._frame.side,
            video_width=self._frame.side,
            inference_device=self._device,
            inference_state_device=self._device,
            video_storage_device=self._device,
            dtype=torch.float32,
        )
        region = session.obj_id_to_idx(_REGION)
        # All accepted masks are remembered first: those of later images help as well.
        for image, mask in sorted(accepted.items()):
            session.add_mask_inputs(region, image, self._square(mask, images[image], image))
            session.obj_with_new_inputs = [_REGION]
            self._video(session, frame_idx=image)
        carried = {}
        for image in range(min(accepted) + 1, len(images)):
            if image in accepted:
                continue
            answer = self._video(session, frame_idx=image)
            height, width = images[image].shape[:2]
            logits = self._frame.to_image(answer.pred_masks[0].float(), (height, width))
            score = float(answer.object_score_logits.flatten()[0].sigmoid())
            carried[image] = SourceMask((logits[0] > 0).cpu().numpy(), score)
        return carried

    def _square(self, mask: BoolMask, image: RgbImage, number: int) -> torch.Tensor:
        """(1, 1, side, side) float32 mask in the square that the network sees."""
        if mask.shape != image.shape[:2]:
            raise InvalidMaskError(
                f"accepted[{number}]: expected {image.shape[:2]}, got {mask.shape}"
            )
        shares = torch.from_numpy(np.asarray(mask, np.float32))[None, None]
        square = torch.nn.functional.interpolate(
            shares,
            size=(self._frame.side, self._frame.side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return (square >= _INSIDE).float().to(self._device)


def open_sam2_series(name: str, folder: HubFolder, licence: str, device: str) -> Sam2Segmenter:
    """Reads SAM 2 or 2.1 from a folder of the hub, with its memory where the folder has it.

    Raises:
        CheckpointError: the folder does not hold it, or lacks tensors of the part for images.
    """
    if folder.model_type != _VIDEO:
        return open_sam2(name, folder, licence, device)
    try:
        video = load_model(Sam2VideoModel, folder, device)
    except CheckpointError:  # without the memory it answers clicks and boxes alone
        return open_sam2(name, folder, licence, device)
    model = load_model(Sam2Model, folder, device)
    description = describe_prompted(name, folder, licence, video)
    normalisation = read_normalisation(folder, Normalisation())
    return Sam2SeriesSegmenter(description, model, video, normalisation, device)
