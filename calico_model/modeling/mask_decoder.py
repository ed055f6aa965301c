"""SAM's prompt encoder and mask decoder: embedding + sparse + dense prompts -> masks, quality.

Both keep SAM's own names and weights; the addition is the batch: prompts of any number of images
are decoded together, each on its own image's embedding. The dense prompt encodes an earlier mask
(SAM, section 3). It may be the logits of the round before, or a mask that an annotator drew, of
which only bits are known; both are kept in one range of logits.
Legend: n masks, M images, C prompt width, G embedding grid, L = 4G logit side, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import torch
from torch import Tensor, nn

from calico_model.config import CalicoConfig
from calico_model.modeling.backbones import MaskDecoder, PromptEncoder, TwoWayTransformer

SINGLE = (0,)
"""Index of SAM's output for an unambiguous prompt."""
AMBIGUOUS = (1, 2, 3)
"""Indices of SAM's outputs for a prompt that may mean a part, a larger part or the whole."""


class PointKind(IntEnum):
    """Meaning of a prompt point, in SAM's numbers."""

    NONE = -1
    NEGATIVE = 0
    POSITIVE = 1
    FIRST_CORNER = 2
    SECOND_CORNER = 3


@dataclass(frozen=True)
class MaskFeatures:
    """The decoder's input from M images.

    Attributes:
        embedding: (M, C, G, G).
        fine: empty, or maps at 2G (C/4 channels) and 4G (C/8 channels).
    """

    embedding: Tensor
    fine: tuple[Tensor, ...] = ()


class PromptedMaskDecoder(nn.Module):
    """SAM's decoder over a batch of prompts on several images."""

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        mask = config.mask
        grid = mask.encoder.image_size // mask.encoder.patch_size
        self.prompt_encoder = PromptEncoder(
            embed_dim=mask.prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            transformer_dim=mask.prompt_width,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=mask.prompt_width,
                num_heads=mask.decoder_heads,
                mlp_dim=mask.decoder_mlp,
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )
        self.fine: nn.ModuleList | None = None
        self.fine_width = 0  # channels of the finest map beside the embedding
        if mask.high_resolution and config.trunk is not None:
            widths = config.trunk.widths
            self.fine_width = mask.prompt_width // 8
            self.fine = nn.ModuleList(
                (
                    nn.Conv2d(widths[1], mask.prompt_width // 4, 1),
                    nn.Conv2d(widths[0], mask.prompt_width // 8, 1),
                )
            )

    def features(self, embedding: Tensor, maps: tuple[Tensor, ...]) -> MaskFeatures:
        """Joins the embedding (M, C, G, G) with fine maps made from trunk strides 2 and 4."""
        if self.fine is None:
            return MaskFeatures(embedding)
        dtype = self.mask_decoder.iou_token.weight.dtype  # the trunk may run in fewer bits
        fine = (self.fine[0](maps[1].to(dtype)), self.fine[1](maps[0].to(dtype)))
        return MaskFeatures(embedding, fine)

    def embed(
        self,
        points: Tensor,
        kinds: Tensor,
        previous: Tensor | None = None,
        is_known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encodes clicks, boxes and an earlier mask, as SAM does; float32 whatever the caller runs.

        Args:
            points: (n, T, 2) x, y in pixels of the square frame; pixel p spans [p, p + 1).
            kinds: (n, T) int64 of `PointKind`.
            previous: (n, L, L) logits of an earlier mask, or None.
            is_known: (n,) bool, True where `previous` holds an earlier mask; None means all.

        Returns:
            sparse (n, T, C) and dense (n, C, G, G) prompts.
        """
        encoder = self.prompt_encoder
        with _full_precision(points.device.type):
            learned = (encoder.not_a_point_embed, *encoder.point_embeddings)
            table = torch.cat([embedding.weight for embedding in learned])  # (1 + 4, C)
            places = encoder.pe_layer.forward_with_coords(points, encoder.input_image_size)
            is_point = (kinds != PointKind.NONE)[..., None]
            sparse = torch.where(is_point, places, 0.0) + table[kinds + 1]
            none = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
            if previous is None:
                return sparse, none.expand(len(points), -1, *encoder.image_embedding_size)
            dense = encoder.mask_downscaling(previous[:, None].float())
            if is_known is not None:
                dense = torch.where(is_known[:, None, None, None], dense, none)
            return sparse, dense

    def forward(
        self,
        features: MaskFeatures,
        image_index: Tensor,
        sparse: Tensor,
        dense: Tensor | None = None,
        *,
        outputs: Sequence[int] = SINGLE,
    ) -> tuple[Tensor, Tensor]:
        """Decodes every prompt on its own image, in float32 whatever the caller runs in.

        Args:
            features: of M images.
            image_index: (n,) int64, the image of each prompt.
            sparse: (n, T, C) prompt tokens.
            dense: (n, C, G, G) dense prompt, or None for SAM's no-mask embedding.
            outputs: indices of SAM's four masks: `SINGLE`, `AMBIGUOUS`, or both.

        Returns:
            logits (n, outputs, L, L) and predicted IoU (n, outputs).
        """
        with _full_precision(sparse.device.type):
            return self._decode(features, image_index, sparse.float(), dense, outputs)

    def _decode(
        self,
        features: MaskFeatures,
        image_index: Tensor,
        sparse: Tensor,
        dense: Tensor | None,
        outputs: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        decoder = self.mask_decoder
        n = len(image_index)
        learned = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))  # (1 + 4, C)
        tokens = torch.cat((learned[None].expand(n, -1, -1), sparse), dim=1)
        if dense is None:
            dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        source = features.embedding.float()[image_index] + dense  # (n, C, G, G)
        positions = self.prompt_encoder.get_dense_pe().expand(n, -1, -1, -1)
        states, cells = decoder.transformer(source, positions, tokens)
        cells = cells.transpose(1, 2).reshape(source.shape)
        upscaled = self._upscale(cells, features, image_index)  # (n, C/8, L, L)
        weights = torch.stack(
            [decoder.output_hypernetworks_mlps[i](states[:, 1 + i]) for i in outputs], dim=1
        )
        side = upscaled.shape[-1]
        logits = (weights @ upscaled.flatten(2)).reshape(n, -1, side, side)
        iou = decoder.iou_prediction_head(states[:, 0])[:, list(outputs)]
        return logits, iou

    def _upscale(self, cells: Tensor, features: MaskFeatures, image_index: Tensor) -> Tensor:
        first, norm, act1, second, act2 = self.mask_decoder.output_upscaling
        if not features.fine:
            return cast(Tensor, self.mask_decoder.output_upscaling(cells))
        x = act1(norm(first(cells) + features.fine[0].float()[image_index]))
        return cast(Tensor, act2(second(x) + features.fine[1].float()[image_index]))


def _full_precision(device: str) -> AbstractContextManager[None]:
    has_autocast = torch.amp.is_autocast_available(device)  # the meta device has none
    return torch.autocast(device, enabled=False) if has_autocast else nullcontext()


SURE_LOGIT = 10.0
"""Logit of a cell that is known to be all inside; its negative, all outside."""


def clamped_logits(logits: Tensor) -> Tensor:
    """Clamps logits of any shape to the range of a drawn mask."""
    return logits.clamp(-SURE_LOGIT, SURE_LOGIT)


def coverage_logits(shares: Tensor) -> Tensor:
    """Returns the logits of a drawn mask.

    Args:
        shares: of any shape, in [0, 1]: the share of each cell inside the mask.
    """
    return (2.0 * shares - 1.0) * SURE_LOGIT
