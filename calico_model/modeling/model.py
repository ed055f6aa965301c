"""The whole network of CALICO: the paper's figure 3, from images to answers and masks.

Legend: M images in the batch's pool, B conversations, R image slots (one per image of each
conversation), T positions, Q queries, D the LLM's width, K masks, B' x T' computed rows
(language.py).
Tensors in and out: tokenisation, image decoding and files live elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from torch import Tensor, nn
from transformers import DynamicCache

from calico_model.config import CalicoConfig
from calico_model.modeling.add_ons import ExtensibleModel
from calico_model.modeling.backbones import (
    Trunk,
    build_dino,
    build_eva,
    build_language,
    build_qformer,
    build_sam_encoder,
    initialise_from_scratch,
)
from calico_model.modeling.correspondence import (
    ContextAwareModule,
    CorrespondenceExtraction,
    scatter_rows,
)
from calico_model.modeling.features import ImageFeatures, Pixels
from calico_model.modeling.language import (
    Conversations,
    Generated,
    RowLayout,
    decode_greedily,
    packed,
    padded,
    run_layers,
    unpack,
)
from calico_model.modeling.mask_decoder import PromptedMaskDecoder
from calico_model.modeling.mobile_sam import (
    SAM_SIDE,
    MobileSam,
    load_mobile_sam,
    mobile_sam_file,
)
from calico_model.modeling.photo_trunk import open_photo_trunk, whole_map

ADAPTER_NAME = "default"


class Calico(ExtensibleModel):
    """Vision-language model over a group of images, answering with names and masks."""

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__(config)
        width, switches = config.language.width, config.ablation
        self.trunk = Trunk(config.trunk) if config.trunk else None
        # In a list, so that PyTorch does not register it: the trunk is never saved, trained,
        # counted or quantised with the model.
        self._photo_trunk: list[nn.Module] = []
        self._mobile_sam: list[MobileSam | None] = []
        self.eva = build_eva(config.eva)
        self.dino = build_dino(config.dino) if switches.use_dino else None
        self.sam_encoder = build_sam_encoder(config.mask)
        if switches.use_qformer:
            self.qformer = build_qformer(config)
            self.query_tokens = nn.Parameter(
                torch.randn(config.qformer.queries, config.qformer.width)
                * config.qformer.width**-0.5
            )
            self.image_projection = nn.Linear(config.qformer.width, width)
        else:
            self.image_projection = nn.Linear(config.eva.width, width)
        self.language = build_language(config)
        self.cem: CorrespondenceExtraction | None = None
        if self.injects and switches.use_cem and switches.use_dino:
            self.cem = CorrespondenceExtraction(config)
        self.cams = nn.ModuleList(
            ContextAwareModule(width, config.qformer.width)
            for _ in range(config.cams if self.injects else 0)
        )
        self.segmentation_projection = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, config.mask.prompt_width),
            nn.Dropout(0.0),
        )
        self.mask_decoder = PromptedMaskDecoder(config)
        if config.lora.rank:
            inject_adapter_in_model(
                PeftLoraConfig(
                    r=config.lora.rank,
                    lora_alpha=config.lora.alpha,
                    lora_dropout=config.lora.dropout,
                    target_modules=list(config.lora.targets),
                    bias="none",
                ),
                self.language,
                adapter_name=ADAPTER_NAME,
            )

    @property
    def injects(self) -> bool:
        """Whether the model has CAMs: they need a Q-Former, and CEM or guidance."""
        switches = self.config.ablation
        has_source = switches.use_cem or switches.use_cam_guidance
        return switches.inject and switches.use_qformer and has_source

    def initialise(self) -> None:
        """Initialises every weight for training from scratch; CEM, CAMs and LoRA start silent."""
        initialise_from_scratch(self)
        for name, parameter in self.named_parameters():
            if ".lora_B." in name:
                nn.init.zeros_(parameter)
        if self.cem is not None:
            self.cem.reset()
        for cam in self.cams:
            cast(ContextAwareModule, cam).reset()

    # --- images -----------------------------------------------------------------------------

    def encode(self, pixels: Pixels) -> ImageFeatures:
        """Runs the three encoders, and the photo trunk, on M images (equations 2, 4 and 5)."""
        if self.trunk is not None:
            maps = self.trunk(pixels.square)
            eva_input, dino_input, sam_input = maps[-1], maps[-1], maps[-2]
        else:
            assert pixels.eva is not None
            assert pixels.dino is not None
            maps, eva_input, dino_input, sam_input = (), pixels.eva, pixels.dino, pixels.square
        global_tokens = self.eva(pixel_values=eva_input).last_hidden_state  # (M, T_g, D_g)
        if self.dino is None:
            semantic = global_tokens
        else:
            semantic = self.dino(pixel_values=dino_input).last_hidden_state
            semantic = semantic[:, 1 + self.config.dino.registers :]  # (M, T_s, D_s)
        embedding = self.sam_encoder(sam_input)  # (M, C, G, G)
        return ImageFeatures(
            global_tokens,
            semantic,
            self.mask_decoder.features(embedding, maps),
            self.encode_photos(pixels.photo),
        )

    def encode_photos(
        self, images: Sequence[Tensor], cells: int | None = None
    ) -> tuple[Tensor, ...]:
        """Runs the photo trunk; its weights are read from disk at the first call.

        Args:
            images: M images (3, h_i, w_i), see `Pixels.photo`.
            cells: side of the finest maps; None for the side of the configuration.

        Returns:
            The four maps of `ImageFeatures.photo`; an empty tuple without images.
        """
        if not images:
            return ()
        assert self.config.photo_trunk is not None
        if not self._photo_trunk:
            self._photo_trunk.append(open_photo_trunk(self.config.photo_trunk))
        trunk = self._photo_trunk[0].to(images[0].device)
        cells = cells or self.config.photo_trunk.side // 4
        outputs = [trunk(x[None].contiguous(memory_format=torch.channels_last)) for x in images]
        return tuple(
            torch.cat([whole_map(values, cells >> level) for values in maps]).bfloat16()
            for level, maps in enumerate(zip(*outputs, strict=True))
        )

    def mobile_sam(self) -> MobileSam | None:
        """Returns MobileSAM, read from disk at the first call; None if it is not installed."""
        if not self._mobile_sam:
            file = mobile_sam_file()
            self._mobile_sam.append(None if file is None else load_mobile_sam(file, SAM_SIDE))
        sam = self._mobile_sam[0]
        return (
            None if sam is None else sam.to(self.mask_decoder.mask_decoder.iou_token.weight.device)
        )

    def is_familiar(self, features: ImageFeatures) -> bool:
        """Whether a group's images are like those the LLM and the mask decoder learned from."""
        return self.familiarity is None or self.familiarity.covers(features)

    def run_qformer(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Runs the Q-Former: queries (M, Q, D_q) over tokens (M, T, D_g) -> (M, Q, D_q)."""
        return cast(
            Tensor,
            self.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state,
        )

    def image_rows(self, features: ImageFeatures) -> Tensor:
        """Returns the (M, Q, D) LLM rows of each image (equations 1 and 2)."""
        tokens = features.global_tokens
        if self.config.ablation.use_qformer:
            queries = self.query_tokens[None].expand(len(tokens), -1, -1)
            return cast(Tensor, self.image_projection(self.run_qformer(queries, tokens)))
        pooled = nn.functional.adaptive_avg_pool1d(
            tokens.transpose(1, 2), self.config.qformer.queries
        )
        return cast(Tensor, self.image_projection(pooled.transpose(1, 2)))

    def correspondence(self, features: ImageFeatures) -> Tensor | None:
        """Returns X'_global (M, T_g, D_g) for the CAMs; None where the CAMs read no images."""
        switches = self.config.ablation
        if not self.injects or not switches.use_cem:
            return None
        if self.cem is None:
            return features.global_tokens
        return cast(Tensor, self.cem(features.global_tokens, features.semantic_tokens))

    # --- language ---------------------------------------------------------------------------

    def embed(self, conversations: Conversations, rows: Tensor) -> Tensor:
        """Returns (B, T, D) input embeddings, the (M, Q, D) image rows in their slots."""
        embeddings = self.language.model.embed_tokens(conversations.input_ids)
        offsets = torch.arange(rows.shape[1], device=rows.device)
        where = (conversations.image_row[:, None], conversations.image_column[:, None] + offsets)
        return cast(
            Tensor,
            embeddings.index_put(where, rows[conversations.image_feature].to(embeddings.dtype)),
        )

    def prefill(
        self,
        embeddings: Tensor,
        conversations: Conversations,
        correspondence: Tensor | None,
        layouts: tuple[RowLayout, RowLayout],
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Runs all LLM layers over whole conversations, CAMs included.

        Args:
            embeddings: (B, T, D) from `embed`.
            conversations: give the image slots and the guidance positions.
            correspondence: (M, T_g, D_g) X'_global or None.
            layouts: rows to compute in the layers below the first CAM, and in the others.
            cache: if given, filled with keys and values of all (B, T) positions.

        Returns:
            (B, T, D) hidden states after the last norm; meaningless at padding.
        """
        layout, above = layouts
        hidden = layout.rows(embeddings)
        for layers, cam in self._layer_ranges():
            if cam is not None:
                hidden, layout = above.rows(layout.positions(hidden)), above
                hidden = self._inject(cam, hidden, conversations, correspondence, layout)
            hidden = run_layers(self.language, layers, hidden, layout.depth, layout.mask, cache)
            if cache is not None:
                unpack(cache, layers, layout)
        return layout.positions(cast(Tensor, self.language.model.norm(hidden)))

    def prefill_packed(
        self, features: ImageFeatures, conversations: Conversations
    ) -> tuple[Tensor, DynamicCache]:
        """Runs `prefill` over prompts, their common beginning once.

        In the layers below the first CAM that is the system prompt, the images and the common
        wording; in the others all before the first image.

        Returns:
            (B, T, D) hidden states, and keys and values of all (B, T) positions.
        """
        cache = DynamicCache()
        hidden = self.prefill(
            self.embed(conversations, self.image_rows(features)),
            conversations,
            self.correspondence(features),
            (packed(conversations, own_images=False), packed(conversations, own_images=True)),
            cache,
        )
        return hidden, cache

    def _layer_ranges(self) -> list[tuple[range, nn.Module | None]]:
        """Consecutive LLM layers, each range with the CAM that changes its input, if any."""
        starts = (0, *self.config.cam_layers[: len(self.cams)])
        ends = (*starts[1:], self.config.language.layers)
        return list(zip(map(range, starts, ends), (None, *self.cams), strict=True))

    def _inject(
        self,
        cam: nn.Module,
        hidden: Tensor,
        conversations: Conversations,
        correspondence: Tensor | None,
        layout: RowLayout,
    ) -> Tensor:
        """Adds a CAM's output to the image rows of the hidden states (equation 9)."""
        row, column = conversations.image_row, conversations.image_column
        guidance = conversations.guidance[row]  # (R,)
        last = hidden.flatten(0, 1)[layout.node[row, guidance]]  # (R, D) t_last
        tokens = None if correspondence is None else correspondence[conversations.image_feature]
        added = cam(
            last,
            self.query_tokens,
            tokens,
            self.run_qformer,
            guided=self.config.ablation.use_cam_guidance,
        )
        first, width = layout.node[row, column], hidden.shape[1]
        return scatter_rows(hidden, first // width, first % width, added)

    def forward(
        self, features: ImageFeatures, conversations: Conversations
    ) -> tuple[Tensor, Tensor]:
        """Teacher-forced pass over right-padded conversations.

        Returns:
            Hidden states (B, T, D) and next-token logits (B, T, V).
        """
        layout = padded(conversations)
        hidden = self.prefill(
            self.embed(conversations, self.image_rows(features)),
            conversations,
            self.correspondence(features),
            (layout, layout),
        )
        return hidden, cast(Tensor, self.language.lm_head(hidden))

    def segment(
        self, features: ImageFeatures, states: Tensor, image_feature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decodes the masks of [SEG] tokens.

        Args:
            features: of M images.
            states: (K, D) hidden states before each [SEG].
            image_feature: (K,) int64, the image of each mask.

        Returns:
            Mask logits (K, L, L) and predicted IoU (K,).
        """
        sparse = self.segmentation_projection(states)[:, None]  # (K, 1, C)
        logits, iou = self.mask_decoder(features.mask, image_feature, sparse)
        return logits[:, 0], iou[:, 0]

    # --- generation -------------------------------------------------------------------------

    @torch.inference_mode()
    def generate(
        self,
        features: ImageFeatures,
        conversations: Conversations,
        *,
        seg: int,
        end: int,
        penalised: Sequence[int] = (),
    ) -> Generated:
        """Answers B left-padded prompts greedily; CAMs act in the prefill only.

        Args:
            features: of M images.
            conversations: prompts without answers, padded on the left.
            seg, end: ids of [SEG] and of the end of turn.
            penalised: ids whose logits lose the configuration's `empty_margin`.
        """
        bias = torch.zeros(self.config.language.vocab_size, device=conversations.input_ids.device)
        bias[list(penalised)] = -self.config.empty_margin
        hidden, cache = self.prefill_packed(features, conversations)
        return decode_greedily(
            self.language,
            hidden[:, -1],
            conversations.is_token,
            cache,
            bias=bias,
            seg=seg,
            end=end,
            limit=self.config.max_answer_tokens,
        )
