"""CLIP and DINO of transformers as a source of names, by CASS: coarse, but no name is unknown.

An image is seen through overlapping windows of CLIP's size. A name gets one mask, of all things of
that name. Names of the ground compete with what is asked for, so that one name alone is no answer
for the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor
from torch.nn import functional

from calico_model.errors import CheckpointError
from calico_model.sources import cass
from calico_model.sources.frames import Normalisation
from calico_model.sources.hub_folder import HubFolder, load_model, load_tokenizer
from calico_model.sources.prompted import count_parameters, read_normalisation
from calico_model.sources.source import Ability, Encoding, SourceDescription, SourceMask
from calico_model.types import BoolMask, RgbImage

GAMMA, ALPHA, CUT = 0.2, 0.03, 0.08  # presence, image in the text, height of similar names
_SHORTER = 1.5  # shorter side of the scaled image, in windows
_SCALE, _LEAST_CHANCE = 40.0, 0.1
_GROUND = ("background", "wall", "floor", "ground", "sky", "grass", "table", "person")
_TEMPLATES = (  # the seven that CLIP's authors found best together
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
_KEPT_NAMES = 512
_CLIP_PIXELS = Normalisation(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)


@dataclass(frozen=True, eq=False)
class _Window:
    """Patches of one window: (N, D) unit rows, and the window's first row and column in patches."""

    patches: Tensor
    row: int
    column: int


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is kept of an image: its windows, its grid in patches, (D,) vector of the whole."""

    windows: tuple[_Window, ...]
    grid_hw: tuple[int, int]
    whole: Tensor


class CassSource:
    """CLIP and DINO as a source of masks by name.

    Args:
        clip: `CLIPModel`.
        tokenizer: CLIP's.
        dino: `ViTModel` of DINO, `Dinov2Model` or `DINOv3ViTModel`.
        description: of both.
        clip_pixels, dino_pixels: how each normalises pixels.
        device: where both run.
    """

    def __init__(
        self,
        clip: Any,
        tokenizer: Any,
        dino: Any,
        description: SourceDescription,
        *,
        clip_pixels: Normalisation = _CLIP_PIXELS,
        dino_pixels: Normalisation | None = None,
        device: str = "cpu",
    ) -> None:
        self._clip = clip.eval().requires_grad_(False).to(device)
        self._dino = dino.eval().requires_grad_(False).to(device)
        self._tokenizer, self._description, self._device = tokenizer, description, device
        self._clip_pixels, self._dino_pixels = clip_pixels, dino_pixels or Normalisation()
        self._names: LRUCache[str, Tensor] = LRUCache(_KEPT_NAMES)
        self._dino_keys: list[Tensor] = []
        projections = [one for name, one in dino.named_modules() if name.endswith("k_proj")]
        projections[-1].register_forward_hook(lambda *call: self._dino_keys.append(call[-1]))

    def describe(self) -> SourceDescription:
        """Returns what it is: it answers names."""
        return self._description

    @torch.inference_mode()
    def encode(self, image: RgbImage) -> Encoding:
        """Encodes an image to the patches of its windows, in CLIP's common space."""
        config = self._clip.config.vision_config
        patch, cells = config.patch_size, config.image_size // config.patch_size
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        scale = _SHORTER * cells / min(image.shape[:2])
        rows, columns = (max(cells, round(size * scale)) for size in image.shape[:2])
        scaled = _resized(pixels, (rows * patch, columns * patch))
        windows = []
        for row in _starts(rows, cells):
            for column in _starts(columns, cells):
                y, x, side = row * patch, column * patch, cells * patch
                view = scaled[:, :, y : y + side, x : x + side]
                windows.append(_Window(self._patches(view, cells), row, column))
        whole = self._clip.get_image_features(
            pixel_values=self._prepared(
                _resized(pixels, (config.image_size, config.image_size)), self._clip_pixels
            )
        ).pooler_output[0]
        seen = _Seen(tuple(windows), (rows, columns), functional.normalize(whole.float(), dim=0))
        nbytes = sum(window.patches.nbytes for window in windows) + seen.whole.nbytes
        return Encoding((image.shape[0], image.shape[1]), seen, nbytes)

    @torch.inference_mode()
    def segment_names(self, encoding: Encoding, names: Sequence[str]) -> Sequence[SourceMask]:
        """Returns one mask per name that is found; no two overlap."""
        asked = list(dict.fromkeys(names))
        if not asked:
            return []
        ground = [name for name in _GROUND if name not in asked]
        chances, winners = self._chances(encoding, [*asked, *ground])
        masks = []
        for number, name in enumerate(asked):
            inside = (winners == number) & (chances > _LEAST_CHANCE)
            mask = cast(BoolMask, inside.cpu().numpy())
            if mask.any():
                masks.append(SourceMask(mask, float(chances[inside].mean().clamp(0, 1)), name))
        return masks

    def _chances(self, encoding: Encoding, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(H, W) chance of the likeliest name of every pixel, and its number."""
        seen: _Seen = encoding.state
        text = torch.stack([self._text(name) for name in names])
        presence = text @ seen.whole
        patches = torch.cat([window.patches for window in seen.windows])
        text = cass.adjusted_text(
            text.cpu(), presence.cpu(), patches.cpu(), cut=CUT, alpha=ALPHA
        ).to(text)
        total = patches.new_zeros(len(names), *seen.grid_hw)
        count = patches.new_zeros(seen.grid_hw)
        for window in seen.windows:
            scores = cass.class_scores(window.patches, text, presence, GAMMA)
            side = int(len(scores) ** 0.5)
            rows = slice(window.row, window.row + side)
            columns = slice(window.column, window.column + side)
            total[:, rows, columns] += scores.T.reshape(-1, side, side)
            count[rows, columns] += 1
        return _likeliest(total / count, encoding.size_hw)

    def _text(self, name: str) -> Tensor:
        """(D,) unit vector of a name: the mean over the templates."""
        vector = self._names.get(name)
        if vector is None:
            tokens = self._tokenizer(
                [template.format(name) for template in _TEMPLATES],
                return_tensors="pt",
                padding=True,
                truncation=True,
            ).to(self._device)
            text = self._clip.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output.float()
            vector = functional.normalize(functional.normalize(text, dim=1).mean(0), dim=0)
            self._names[name] = vector
        return vector

    def _prepared(self, pixels: Tensor, normalisation: Normalisation) -> Tensor:
        return normalisation.apply(pixels[0]).to(self._device, self._clip.dtype)

    def _patches(self, view: Tensor, cells: int) -> Tensor:
        """(N, D) unit rows of the patches of one window, by the fused attention."""
        vision = self._clip.vision_model
        hidden = vision.pre_layrnorm(vision.embeddings(self._prepared(view, self._clip_pixels)))
        for layer in vision.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        last = vision.encoder.layers[-1]
        inner = last.layer_norm1(hidden)[0, 1:]  # without the class token
        heads = self._clip.config.vision_config.num_attention_heads
        keys = _by_head(last.self_attn.k_proj(inner), heads)
        values = _by_head(last.self_attn.v_proj(inner), heads)
        logits = cass.distil(keys.float().cpu(), self._keys_of_dino(view, cells).float().cpu())
        mixed = cass.attend(logits.to(values), values, (cells, cells))
        features = vision.post_layernorm(last.self_attn.out_proj(mixed))
        return functional.normalize(self._clip.visual_projection(features).float(), dim=1)

    def _keys_of_dino(self, view: Tensor, cells: int) -> Tensor:
        """(h, N, d) keys of DINO's last block on CLIP's grid."""
        patch = self._dino.config.patch_size
        side = max(1, round(view.shape[-1] / patch))
        pixels = self._prepared(_resized(view, (side * patch, side * patch)), self._dino_pixels)
        self._dino_keys.clear()
        if self._dino.config.model_type == "vit":
            self._dino(pixels, interpolate_pos_encoding=True)
        else:
            self._dino(pixels)
        tokens = self._dino_keys[-1][0, -side * side :]  # class and register tokens come first
        grid = tokens.T.reshape(1, -1, side, side)
        resized = functional.interpolate(
            grid, size=(cells, cells), mode="bilinear", align_corners=False
        )
        return _by_head(resized[0].flatten(1).T, self._dino.config.num_attention_heads)


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """Splits (N, h * d) tokens into (h, N, d)."""
    return tokens.reshape(len(tokens), heads, -1).transpose(0, 1)


def _resized(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Scales (1, 3, h, w) uint8 pixels."""
    return functional.interpolate(
        pixels, size=size_hw, mode="bilinear", align_corners=False, antialias=True
    )


def _starts(length: int, window: int) -> list[int]:
    """First patches of windows that overlap by half and cover a length."""
    starts = list(range(0, length - window + 1, max(1, window // 2)))
    return starts if starts[-1] == length - window else [*starts, length - window]


def _likeliest(scores: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Softmax of (C, h, w) scores in pixels, class by class: C maps of an image are too large."""
    best = scores.new_full(size_hw, float("-inf"))
    winners = torch.zeros(size_hw, dtype=torch.long, device=scores.device)
    total = scores.new_zeros(size_hw)
    for number, one in enumerate(scores):
        scaled = functional.interpolate(
            one[None, None] * _SCALE, size=size_hw, mode="bilinear", align_corners=False
        )[0, 0]
        total += (scaled - _SCALE).exp()
        winners[scaled > best] = number
        best = torch.maximum(best, scaled)
    return (best - _SCALE).exp() / total, winners


def open_cass(
    name: str, folder: HubFolder, dino_folder: HubFolder, licence: str, device: str
) -> CassSource:
    """Reads CLIP and DINO from two folders of the hub.

    Raises:
        CheckpointError: a folder holds something else, or lacks tensors or the tokenizer.
    """
    from transformers import CLIPModel, Dinov2Model, DINOv3ViTModel, ViTModel

    kinds: dict[str, Any] = {"vit": ViTModel, "dinov2": Dinov2Model, "dinov3_vit": DINOv3ViTModel}
    if dino_folder.model_type not in kinds:
        raise CheckpointError(
            f"{dino_folder.path}: expected DINO, model type one of {', '.join(kinds)}, got "
            f"{dino_folder.model_type!r}"
        )
    clip: Any = load_model(CLIPModel, folder, device)
    dino: Any = load_model(kinds[dino_folder.model_type], dino_folder, device)
    about = SourceDescription(
        name,
        frozenset({Ability.TEXT}),
        f"{folder.digest()}-{dino_folder.digest()}",
        licence,
        count_parameters(clip) + count_parameters(dino),
    )
    return CassSource(
        clip,
        load_tokenizer(folder),
        dino,
        about,
        clip_pixels=read_normalisation(folder, _CLIP_PIXELS),
        dino_pixels=read_normalisation(dino_folder, Normalisation()),
        device=device,
    )
