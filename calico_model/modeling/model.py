"""Calico: the paper's figure 3, top to bottom.

Legend: M images in the batch's pool, B conversations, R image slots (one per image of each
conversation), T positions, Q queries, D the LLM's width, K masks.
Pure tensors in and out: tokenisation, image decoding and files live elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from torch import Tensor, nn
from transformers import DynamicCache

from calico_model.config import CalicoConfig
from calico_model.features import ImageFeatures
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
from calico_model.modeling.inputs import Conversations, Pixels
from calico_model.modeling.mask_decoder import PromptedMaskDecoder

ADAPTER_NAME = "default"


@dataclass(frozen=True)
class Generated:
    """Greedy answers.

    Attributes:
        ids: per conversation, without the end token.
        probabilities: per conversation, of each chosen token.
        seg_states: per conversation, (n, D) hidden state before each [SEG], in order.
    """

    ids: list[list[int]]
    probabilities: list[list[float]]
    seg_states: list[Tensor]


class Calico(nn.Module):
    """Vision-language model over a group of images, answering with names and masks."""

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        self.config = config
        width, switches = config.language.width, config.ablation
        self.trunk = Trunk(config.trunk) if config.trunk else None
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
        """Whether any CAM exists; none without Q-Former, nor without both CEM and guidance."""
        switches = self.config.ablation
        has_source = switches.use_cem or switches.use_cam_guidance
        return switches.inject and switches.use_qformer and has_source

    def initialise(self) -> None:
        """Starts every weight for training from scratch; CEM, CAMs and LoRA change nothing yet."""
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
        """Runs the three encoders once on M images (equations 2, 4 and 5)."""
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
        return ImageFeatures(global_tokens, semantic, self.mask_decoder.features(embedding, maps))

    def run_qformer(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Q(queries, tokens): (M, Q, D_q), (M, T, D_g) -> (M, Q, D_q)."""
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
        """Returns X'_global (M, T_g, D_g) for the CAMs; None when CAMs inject without images."""
        switches = self.config.ablation
        if not self.injects or not switches.use_cem:
            return None
        if self.cem is None:
            return features.global_tokens
        return cast(Tensor, self.cem(features.global_tokens, features.semantic_tokens))

    # --- language ---------------------------------------------------------------------------

    def embed(self, conversations: Conversations, rows: Tensor) -> Tensor:
        """Returns (B, T, D) input embeddings with the image rows in their places."""
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
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Runs all LLM layers over whole conversations, CAMs included.

        Args:
            embeddings: (B, T, D) from `embed`.
            conversations: the layout; padding may be left (generation) or right (training).
            correspondence: (M, T_g, D_g) X'_global or None.
            cache: filled with keys and values when given.

        Returns:
            (B, T, D) final hidden states after the last norm.
        """
        is_token = conversations.is_token
        positions = (is_token.cumsum(1) - 1).clamp(min=0)
        mask = None
        if cache is not None:
            causal = torch.ones(
                is_token.shape[1], is_token.shape[1], dtype=torch.bool, device=is_token.device
            ).tril()
            own = torch.eye(is_token.shape[1], dtype=torch.bool, device=is_token.device)
            mask = (causal & is_token[:, None, :] | own)[:, None]  # (B, 1, T, T)
        rotary = self.language.model.rotary_emb(embeddings, position_ids=positions)
        hidden = embeddings
        cam_of_layer = dict(zip(self.config.cam_layers, self.cams, strict=False))
        for index, layer in enumerate(self.language.model.layers):
            if index in cam_of_layer:
                hidden = self._inject(cam_of_layer[index], hidden, conversations, correspondence)
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                position_embeddings=rotary,
            )
        return cast(Tensor, self.language.model.norm(hidden))

    def _inject(
        self,
        cam: nn.Module,
        hidden: Tensor,
        conversations: Conversations,
        correspondence: Tensor | None,
    ) -> Tensor:
        slots = torch.arange(len(hidden), device=hidden.device)
        last = hidden[slots, conversations.guidance]  # (B, D) t_last
        tokens = None if correspondence is None else correspondence[conversations.image_feature]
        added = cam(
            last[conversations.image_row],
            self.query_tokens,
            tokens,
            self.run_qformer,
            guided=self.config.ablation.use_cam_guidance,
        )
        return scatter_rows(hidden, conversations.image_row, conversations.image_column, added)

    def forward(
        self, features: ImageFeatures, conversations: Conversations
    ) -> tuple[Tensor, Tensor]:
        """Teacher-forced pass: returns (B, T, D) hidden states and (B, T, V) next-token logits."""
        rows = self.image_rows(features)
        hidden = self.prefill(
            self.embed(conversations, rows), conversations, self.correspondence(features)
        )
        return hidden, cast(Tensor, self.language.lm_head(hidden))

    def segment(
        self, features: ImageFeatures, states: Tensor, image_feature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turns (K, D) hidden states before [SEG] into (K, L, L) logits and (K,) predicted IoU."""
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
        held_back: Sequence[int] = (),
    ) -> Generated:
        """Answers B left-padded prompts greedily; CAMs act in the prefill only.

        Args:
            features: of M images.
            conversations: prompts without answers, padded on the left.
            seg, end: ids of [SEG] and of the end of turn.
            held_back: ids that must win by the configuration's `empty_margin`.
        """
        bias = torch.zeros(self.config.language.vocab_size, device=conversations.input_ids.device)
        bias[list(held_back)] = -self.config.empty_margin
        cache = DynamicCache()
        rows = self.image_rows(features)
        hidden = self.prefill(
            self.embed(conversations, rows), conversations, self.correspondence(features), cache
        )
        state, is_token = hidden[:, -1], conversations.is_token
        count = len(state)
        ids: list[list[int]] = [[] for _ in range(count)]
        probabilities: list[list[float]] = [[] for _ in range(count)]
        states: list[list[Tensor]] = [[] for _ in range(count)]
        running = set(range(count))
        for _ in range(self.config.max_answer_tokens):
            chance = (self.language.lm_head(state).float() + bias).softmax(-1)  # (B, V)
            best, token = chance.max(-1)
            for row in sorted(running):
                chosen = int(token[row])
                if chosen == end:
                    running.discard(row)
                    continue
                ids[row].append(chosen)
                probabilities[row].append(float(best[row]))
                if chosen == seg:
                    states[row].append(state[row])
            if not running:
                break
            is_token = torch.cat((is_token, is_token.new_ones(count, 1)), dim=1)
            state = self._step(token, is_token, cache)
        empty = state.new_zeros(0, state.shape[1])
        return Generated(ids, probabilities, [torch.stack(s) if s else empty for s in states])

    def _step(self, token: Tensor, is_token: Tensor, cache: DynamicCache) -> Tensor:
        hidden = self.language.model.embed_tokens(token)[:, None]  # (B, 1, D)
        positions = is_token.sum(1, keepdim=True) - 1
        rotary = self.language.model.rotary_emb(hidden, position_ids=positions)
        for layer in self.language.model.layers:
            hidden = layer(
                hidden,
                attention_mask=is_token[:, None, None],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=rotary,
            )
        return cast(Tensor, self.language.model.norm(hidden))[:, 0]
