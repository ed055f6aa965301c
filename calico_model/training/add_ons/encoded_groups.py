"""Encoded groups with the truth of their parts and [SEG] prompts: what add-ons learn from.

Encoders, language model and decoder are frozen, so their output for a scene is computed once and
kept in chunks on disk; a step then costs the mask decoder alone.
Legend: M images, S scene side, L logit side, C prompt width, K prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from calico_model.data.catalogue import PART_NAMES
from calico_model.data.comparison import visible_parts
from calico_model.data.pool import ScenePool
from calico_model.data.scene import Scene
from calico_model.inference.images import to_pixels
from calico_model.inference.teacher_forcing import make_name_prompts
from calico_model.modeling.features import ImageFeatures, concatenate
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.add_ons.chunk_folder import ChunkFolder
from calico_model.training.add_ons.recipes import AddOnRecipe
from calico_model.training.engine import OnProgress, TrainingProgress
from calico_model.training.frozen import frozen_features, rounded

GROUPS_PER_CHUNK = 32
GROUP_SIZE = 2


@dataclass(frozen=True)
class EncodedGroups:
    """One chunk: pairs of images one after the other.

    Attributes:
        features: of M images, bfloat16.
        images: (M, S, S, 3) uint8 RGB.
        objects: (M, S, S) uint8, 0 background, 1 the main object, 2 and up the others.
        parts: (M, S, S) uint8, 1 + index into `PART_NAMES` on the main object, else 0.
        prompt: (K, C) sparse prompt that [SEG] became for a named part of an image.
        prompt_image: (K,) int64 which image.
        prompt_part: (K,) int64 which code of `parts`.
    """

    features: ImageFeatures
    images: Tensor
    objects: Tensor
    parts: Tensor
    prompt: Tensor
    prompt_image: Tensor
    prompt_part: Tensor


class EncodedGroupFolder(ChunkFolder[EncodedGroups]):
    """Chunks of encoded groups."""

    def _make(self, index: int) -> EncodedGroups:
        rng = np.random.default_rng((self._seed, index))
        groups = [self._pool.draw_group(rng, GROUP_SIZE) for _ in range(GROUPS_PER_CHUNK)]
        encoded = [encode_group(self._model, self._tokenizer, group) for group in groups]
        first = range(0, GROUP_SIZE * len(encoded), GROUP_SIZE)
        return EncodedGroups(
            concatenate([group.features for group in encoded]),
            torch.cat([group.images for group in encoded]),
            torch.cat([group.objects for group in encoded]),
            torch.cat([group.parts for group in encoded]),
            torch.cat([group.prompt for group in encoded]),
            torch.cat([g.prompt_image + at for g, at in zip(encoded, first, strict=True)]),
            torch.cat([group.prompt_part for group in encoded]),
        )

    def _pack(self, chunk: EncodedGroups) -> dict[str, Tensor]:
        return _pack(chunk)

    def _unpack(self, tensors: Mapping[str, Tensor]) -> EncodedGroups:
        return _unpack(tensors)


def fill_groups(
    model: Calico,
    tokenizer: Tokenizer,
    recipe: AddOnRecipe,
    pool: Path,
    out: Path,
    on_progress: OnProgress,
) -> EncodedGroupFolder:
    """Returns the encoded groups of a run; those that are missing are made.

    Args:
        model: frozen, in evaluation mode.
        tokenizer: of the model.
        recipe: seed, and number of chunks.
        pool: folder of rendered scenes.
        out: run folder; the groups are in `lessons/`.
        on_progress: called after each chunk, in a stage "encoding".

    Raises:
        InvalidRecordError: no scenes.
    """
    groups = EncodedGroupFolder(
        out / "lessons",
        model,
        tokenizer,
        ScenePool(pool),
        seed=recipe.seed,
        chunks=recipe.chunks,
    )
    groups.fill(lambda done, total: on_progress(TrainingProgress("encoding", done, total)))
    return groups


@torch.no_grad()
def encode_group(model: Calico, tokenizer: Tokenizer, scenes: Sequence[Scene]) -> EncodedGroups:
    """Encodes scenes and reads the [SEG] prompts of every part that any of them shows.

    Args:
        model: frozen, in evaluation mode.
        tokenizer: of the model.
        scenes: one group.
    """
    device = model.mask_decoder.mask_decoder.iou_token.weight.device
    pixels = to_pixels([scene.image for scene in scenes], model.config).to(device)
    features = replace(frozen_features(model, pixels), photo=())
    names = tuple(dict.fromkeys(name for scene in scenes for name in visible_parts(scene)))
    mains = [scene.categories[0] for scene in scenes]
    whole = rounded(features, torch.float32)
    prompts = make_name_prompts(model, tokenizer, whole, names, mains)  # (P, n, C)
    maps = [np.where(s.object_map == 1, s.part_map, 0).astype(np.uint8) for s in scenes]
    codes = torch.tensor([PART_NAMES.index(name) + 1 for name in names])
    return EncodedGroups(
        features,
        torch.from_numpy(np.stack([scene.image for scene in scenes])),
        torch.from_numpy(np.stack([scene.object_map for scene in scenes])),
        torch.from_numpy(np.stack(maps)),
        prompts.flatten(0, 1).cpu(),
        torch.arange(len(scenes)).repeat(len(names)),
        codes.repeat_interleave(len(scenes)),
    )


def _pack(groups: EncodedGroups) -> dict[str, Tensor]:
    features = groups.features
    fine = {f"fine{k}": fine for k, fine in enumerate(features.mask.fine)}
    named = fine | {
        "global": features.global_tokens,
        "semantic": features.semantic_tokens,
        "embedding": features.mask.embedding,
        "images": groups.images,
        "objects": groups.objects,
        "parts": groups.parts,
        "prompt": groups.prompt,
        "prompt_image": groups.prompt_image,
        "prompt_part": groups.prompt_part,
    }
    return {name: tensor.cpu().contiguous() for name, tensor in named.items()}


def _unpack(named: Mapping[str, Tensor]) -> EncodedGroups:
    fine = tuple(named[name] for name in sorted(named) if name.startswith("fine"))
    features = ImageFeatures(
        named["global"], named["semantic"], MaskFeatures(named["embedding"], fine)
    )
    kept = (
        named[name]
        for name in ("images", "objects", "parts", "prompt", "prompt_image", "prompt_part")
    )
    return EncodedGroups(features, *kept)
