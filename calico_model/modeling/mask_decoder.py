"""The one contract for masks: image embedding + sparse + dense prompts -> logits and quality.

Legend: n masks, M images, C prompt width, G embedding grid, L = 4G logit side, T prompt tokens.
Composes SAM's prompt encoder and mask decoder with their own names and weights; what is ours is
the batch: prompts of any number of images are decoded together, each on its image's embedding.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from calico_model.config import CalicoConfig
from calico_model.modeling.sam_parts import MaskDecoder, PromptEncoder, TwoWayTransformer


@dataclass(frozen=True)
class MaskFeatures:
    """What the decoder needs of M images.

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
        if mask.high_resolution and config.trunk is not None:
            widths = config.trunk.widths
            self.fine = nn.ModuleList(
                (
                    nn.Conv2d(widths[1], mask.prompt_width // 4, 1),
                    nn.Conv2d(widths[0], mask.prompt_width // 8, 1),
                )
            )

    def features(self, embedding: Tensor, maps: tuple[Tensor, ...]) -> MaskFeatures:
        """Packs the embedding (M, C, G, G) with fine maps made of trunk strides 2 and 4."""
        if self.fine is None:
            return MaskFeatures(embedding)
        dtype = self.mask_decoder.iou_token.weight.dtype  # the trunk may run in fewer bits
        fine = (self.fine[0](maps[1].to(dtype)), self.fine[1](maps[0].to(dtype)))
        return MaskFeatures(embedding, fine)

    def forward(
        self,
        features: MaskFeatures,
        image_index: Tensor,
        sparse: Tensor,
        dense: Tensor | None = None,
        *,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Decodes every prompt on its own image, in float32 whatever the caller runs in.

        Args:
            features: of M images.
            image_index: (n,) int64, the image each prompt belongs to.
            sparse: (n, T, C) prompt tokens.
            dense: (n, C, G, G) dense prompt, or None for SAM's no-mask embedding.
            multimask: True returns SAM's three ambiguity masks instead of the single one.

        Returns:
            logits (n, 1 or 3, L, L) and predicted IoU (n, 1 or 3).
        """
        device = sparse.device.type
        has_autocast = torch.amp.is_autocast_available(device)  # the meta device has none
        with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
            return self._decode(features, image_index, sparse.float(), dense, multimask)

    def _decode(
        self,
        features: MaskFeatures,
        image_index: Tensor,
        sparse: Tensor,
        dense: Tensor | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        decoder = self.mask_decoder
        n = len(image_index)
        own = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))  # (1 + 4, C)
        tokens = torch.cat((own[None].expand(n, -1, -1), sparse), dim=1)
        if dense is None:
            dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        source = features.embedding.float()[image_index] + dense  # (n, C, G, G)
        positions = self.prompt_encoder.get_dense_pe().expand(n, -1, -1, -1)
        states, cells = decoder.transformer(source, positions, tokens)
        cells = cells.transpose(1, 2).reshape(source.shape)
        upscaled = self._upscale(cells, features, image_index)  # (n, C/8, L, L)
        which = range(1, decoder.num_mask_tokens) if multimask else range(1)
        weights = torch.stack(
            [decoder.output_hypernetworks_mlps[i](states[:, 1 + i]) for i in which], dim=1
        )
        side = upscaled.shape[-1]
        logits = (weights @ upscaled.flatten(2)).reshape(n, -1, side, side)
        iou = decoder.iou_prediction_head(states[:, 0])[:, list(which)]
        return logits, iou

    def _upscale(self, cells: Tensor, features: MaskFeatures, image_index: Tensor) -> Tensor:
        first, norm, act1, second, act2 = self.mask_decoder.output_upscaling
        if not features.fine:
            return cast(Tensor, self.mask_decoder.output_upscaling(cells))
        x = act1(norm(first(cells) + features.fine[0].float()[image_index]))
        return cast(Tensor, act2(second(x) + features.fine[1].float()[image_index]))
