"""What the add-ons learn from: encoded groups with the truth of their parts and [SEG] prompts.

Encoders, language model and decoder are frozen, so all they say of a scene is computed once and
kept in chunks on disk; a step then costs the mask decoder alone.
Legend: M images, S scene side, L logit side, C prompt width, K prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from calico_model.data.catalogue import PART_NAMES
from calico_model.data.comparison import visible_parts
from calico_model.data.pool import ScenePool
from calico_model.data.scene import Scene
from calico_model.errors import CheckpointError
from calico_model.inference.images import to_pixels
from calico_model.inference.teacher_forcing import make_name_prompts
from calico_model.modeling.features import ImageFeatures, concatenate
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.staging import staged_folder
from calico_model.tokenizer import Tokenizer
from calico_model.training.frozen import encoder_fingerprint, frozen_features, rounded

GROUPS_PER_CHUNK = 32
GROUP_SIZE = 2
_FILE = "lessons.safetensors"


@dataclass(frozen=True)
class Lessons:
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


class LessonFolder:
    """Chunks of lessons for one set of weights; made once, read again and again.

    Args:
        folder: may hold the chunks of several weights.
        model: frozen, in evaluation mode.
        tokenizer: of the model.
        pool: scenes to draw pairs from.
        seed: of the pairs.
    """

    def __init__(
        self, folder: Path, model: Calico, tokenizer: Tokenizer, pool: ScenePool, *, seed: int
    ) -> None:
        key = sha256(f"{encoder_fingerprint(model)} {_language_key(model)} {seed}".encode())
        self._folder = folder / key.hexdigest()[:16]
        self._model, self._tokenizer, self._pool, self._seed = model, tokenizer, pool, seed

    def fill(self, chunks: int, on_chunk: Callable[[int], None] = lambda done: None) -> None:
        """Makes the chunks that are missing; a killed run goes on where it was."""
        for index in range(chunks):
            if not (self._path(index) / _FILE).is_file():
                tensors = _pack(self._make(index))
                with staged_folder(self._path(index)) as staged:
                    save_file(tensors, staged / _FILE)
            on_chunk(index + 1)

    def read(self, index: int) -> Lessons:
        """Reads one chunk.

        Raises:
            CheckpointError: missing or damaged.
        """
        try:
            return _unpack(load_file(self._path(index) / _FILE))
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{self._path(index).name}/{_FILE}: {error}") from error

    def _path(self, index: int) -> Path:
        return self._folder / f"chunk-{index:04d}"

    def _make(self, index: int) -> Lessons:
        rng = np.random.default_rng((self._seed, index))
        groups = [self._pool.draw_group(rng, GROUP_SIZE) for _ in range(GROUPS_PER_CHUNK)]
        made = [encode_group(self._model, self._tokenizer, group) for group in groups]
        first = range(0, GROUP_SIZE * len(made), GROUP_SIZE)
        return Lessons(
            concatenate([one.features for one in made]),
            torch.cat([one.images for one in made]),
            torch.cat([one.objects for one in made]),
            torch.cat([one.parts for one in made]),
            torch.cat([one.prompt for one in made]),
            torch.cat([one.prompt_image + at for one, at in zip(made, first, strict=True)]),
            torch.cat([one.prompt_part for one in made]),
        )


@torch.no_grad()
def encode_group(model: Calico, tokenizer: Tokenizer, scenes: Sequence[Scene]) -> Lessons:
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
    called = make_name_prompts(model, tokenizer, whole, names, mains)  # (P, n, C)
    maps = [np.where(s.object_map == 1, s.part_map, 0).astype(np.uint8) for s in scenes]
    codes = torch.tensor([PART_NAMES.index(name) + 1 for name in names])
    return Lessons(
        features,
        torch.from_numpy(np.stack([scene.image for scene in scenes])),
        torch.from_numpy(np.stack([scene.object_map for scene in scenes])),
        torch.from_numpy(np.stack(maps)),
        called.flatten(0, 1).cpu(),
        torch.arange(len(scenes)).repeat(len(names)),
        codes.repeat_interleave(len(scenes)),
    )


def _language_key(model: Calico) -> str:
    """Hash of what decides the prompts, beside the encoders."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if ".lora_" in name:
            continue  # silent in a base, and drawn anew at every load
        if name.startswith(("language.", "segmentation_projection.", "qformer.", "cams.", "cem.")):
            digest.update(name.encode())
            digest.update(tensor.detach().float().sum(dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()


def _pack(lessons: Lessons) -> dict[str, Tensor]:
    features = lessons.features
    fine = {f"fine{k}": fine for k, fine in enumerate(features.mask.fine)}
    named = fine | {
        "global": features.global_tokens,
        "semantic": features.semantic_tokens,
        "embedding": features.mask.embedding,
        "images": lessons.images,
        "objects": lessons.objects,
        "parts": lessons.parts,
        "prompt": lessons.prompt,
        "prompt_image": lessons.prompt_image,
        "prompt_part": lessons.prompt_part,
    }
    return {name: tensor.cpu().contiguous() for name, tensor in named.items()}


def _unpack(named: dict[str, Tensor]) -> Lessons:
    fine = tuple(named[name] for name in sorted(named) if name.startswith("fine"))
    features = ImageFeatures(
        named["global"], named["semantic"], MaskFeatures(named["embedding"], fine)
    )
    kept = (
        named[name]
        for name in ("images", "objects", "parts", "prompt", "prompt_image", "prompt_part")
    )
    return Lessons(features, *kept)
