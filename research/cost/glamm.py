"""GLaMM's encoders, as its released code composes them: CLIP-L/14 at 336 px and SAM ViT-H.

Source: mbzuai-oryx/groundingLMM, model/GLaMM.py and model/llava. All 24 CLIP layers run, though the
output of the layer before the last is used. Its 24 x 24 patches go through a two-layer map into the
LLM, and SAM encodes each image. Without a region in the prompt the region encoder does not run. The
released code answers without a key-value cache; we count as if it had one.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from calico_model.config import CalicoConfig
from calico_model.modeling.features import Pixels
from calico_model.modeling.model import Calico

TOKENS = 576
"""LLM rows per image of GLaMM; CALICO-7B has 32."""
_CLIP_SIDE, _CLIP_WIDTH = 336, 1024


class GlammEncoders(nn.Module):
    """What GLaMM runs on an image before its LLM, besides the parts it shares with CALICO.

    A network with a shared trunk has no CLIP of its size: its own trunk and global encoder replace
    CLIP, with 18 LLM rows for each of CALICO's, as at 7B.

    Attributes:
        image_tokens: LLM rows per image.
        clip: the CLIP encoder, None where a trunk replaces it.
        projector: two-layer map into the LLM.
    """

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        self.clip: CLIPVisionModel | None = None
        self.image_tokens, source = TOKENS, _CLIP_WIDTH
        if config.trunk is None:
            self.clip = CLIPVisionModel(
                CLIPVisionConfig(
                    hidden_size=_CLIP_WIDTH,
                    intermediate_size=4 * _CLIP_WIDTH,
                    num_hidden_layers=24,
                    num_attention_heads=16,
                    image_size=_CLIP_SIDE,
                    patch_size=14,
                )
            )
        else:
            self.image_tokens, source = 18 * config.qformer.queries, config.eva.width
        width = config.language.width
        self.projector = nn.Sequential(nn.Linear(source, width), nn.GELU(), nn.Linear(width, width))

    def encode(self, model: Calico, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Runs all encoders on M images.

        Args:
            model: provides SAM's encoder, and trunk and EVA where they replace CLIP.
            pixels: on the meta device; values do not matter, so neither does the normalisation.

        Returns:
            LLM rows (M, image_tokens, D) and SAM's embedding (M, C, G, G).
        """
        count = len(pixels.square)
        if model.trunk is not None:
            maps = model.trunk(pixels.square)
            model.eva(pixel_values=maps[-1])
            patches = pixels.square.new_empty(count, self.image_tokens, model.config.eva.width)
            return self.projector(patches), model.sam_encoder(maps[-2])
        assert self.clip is not None
        square = pixels.square.new_empty(count, 3, _CLIP_SIDE, _CLIP_SIDE)
        patches = self.clip(square, output_hidden_states=True).hidden_states[-2][:, 1:]
        return self.projector(patches), model.sam_encoder(pixels.square)
