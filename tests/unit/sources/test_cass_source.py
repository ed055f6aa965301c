"""CLIP and DINO of transformers, small and random, as a source of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from calico_model.errors import CheckpointError
from calico_model.sources import cass
from calico_model.sources.cass_source import _GROUND, CassSource, _starts
from calico_model.sources.registry import open_source, read_choices
from calico_model.sources.source import Ability, TextSource
from tests.unit.sources.small_text_models import (
    clip_model,
    clip_tokenizer,
    description,
    dino_model,
    picture,
)

NAMES = ["handle", "spout", "lid"]


@pytest.fixture(scope="module", params=["vit", "dinov2", "dinov3"])
def source(request: pytest.FixtureRequest) -> CassSource:
    about = description("cass", Ability.TEXT)
    return CassSource(clip_model(), clip_tokenizer(60), dino_model(request.param), about)


def test_every_pixel_has_one_name_at_most(source: CassSource) -> None:
    assert isinstance(source, TextSource)
    encoding = source.encode(picture())
    masks = source.segment_names(encoding, [*NAMES, "handle"])
    assert len(masks) > 0
    assert sum(mask.mask.astype(int) for mask in masks).max() == 1
    assert [mask.label for mask in masks] == [n for n in NAMES if n in {m.label for m in masks}]
    assert all(mask.mask.shape == (60, 90) and mask.mask.any() for mask in masks)
    assert source.segment_names(encoding, []) == []


def test_the_order_of_names_does_not_matter(source: CassSource) -> None:
    encoding = source.encode(picture(seed=3))
    first = {mask.label: mask for mask in source.segment_names(encoding, NAMES)}
    again = {mask.label: mask for mask in source.segment_names(encoding, NAMES[::-1])}
    assert first.keys() == again.keys()
    for name, mask in first.items():
        assert (mask.mask != again[name].mask).mean() < 1e-3
        assert mask.score == pytest.approx(again[name].score, abs=1e-4)


def test_the_whole_image_is_seen_as_transformers_see_it(source: CassSource) -> None:
    image = picture(32, 32)
    encoding = source.encode(image)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    pixels = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / deviation
    with torch.no_grad():
        expected = source._clip.get_image_features(pixel_values=pixels[None]).pooler_output[0]
        text = source._clip.get_text_features(
            **clip_tokenizer(60)(["itap of a lid."], return_tensors="pt")
        ).pooler_output
    assert torch.allclose(encoding.state.whole, functional.normalize(expected, dim=0), atol=1e-4)
    assert text.shape == (1, 16)


def test_without_dino_s_share_the_patches_are_those_of_clip_s_keys(
    source: CassSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last block against transformers' own hidden states and projections."""
    monkeypatch.setattr(cass, "_DISTANCE_WEIGHT", 0.0)
    view = torch.from_numpy(picture(32, 32)).permute(2, 0, 1)[None]
    patches = source._patches(view, 8)
    vision: Any = source._clip.vision_model
    with torch.no_grad():
        pixels = source._prepared(view, source._clip_pixels)
        hidden = vision(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        last = vision.encoder.layers[-1]
        inner = last.layer_norm1(hidden)[:, 1:]
        keys, values = (
            one(inner).view(1, 64, 4, 8).transpose(1, 2)
            for one in (last.self_attn.k_proj, last.self_attn.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(
            keys, keys, values, attn_mask=cass.neighbourhood(8, 8)
        )
        joined = last.self_attn.out_proj(mixed.transpose(1, 2).reshape(1, 64, 32))
        expected = source._clip.visual_projection(vision.post_layernorm(joined))[0]
    assert torch.allclose(patches, functional.normalize(expected, dim=1), atol=1e-4)


def test_dino_s_keys_come_from_its_last_block(source: CassSource) -> None:
    view = torch.from_numpy(picture(32, 32)).permute(2, 0, 1)[None]
    keys = source._keys_of_dino(view, 8)
    assert keys.shape == (2, 64, 16)
    assert len(source._dino_keys) == 1, "one block is read"


def test_windows_cover_an_image() -> None:
    for length in range(14, 60):
        starts = _starts(length, 14)
        assert starts[0] == 0
        assert starts[-1] == length - 14
        assert all(0 < b - a <= 7 for a, b in zip(starts, starts[1:], strict=False))


def test_names_of_the_ground_compete_unless_they_are_asked(source: CassSource) -> None:
    encoding = source.encode(picture())
    (alone,) = source.segment_names(encoding, ["handle"]) or [None]
    assert alone is None or not alone.mask.all()
    assert {mask.label for mask in source.segment_names(encoding, list(_GROUND))} <= set(_GROUND)


def saved(folder: Path, kind: str) -> str:
    clip_model().save_pretrained(folder / "clip")
    clip_tokenizer(60).save_pretrained(folder / "clip")
    dino_model(kind).save_pretrained(folder / "dino")
    return f"cass={folder / 'clip'}+{folder / 'dino'}"


@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov3"])
def test_two_folders_answer_as_the_models_in_memory(kind: str, tmp_path: Path) -> None:
    (choice,) = read_choices([saved(tmp_path, kind)], tmp_path)
    loaded = open_source(choice)
    about = description("cass", Ability.TEXT)
    memory = CassSource(clip_model(), clip_tokenizer(60), dino_model(kind), about)
    assert loaded.describe().abilities == {Ability.TEXT}
    assert isinstance(loaded, CassSource)
    image = picture(seed=7)
    ours = loaded.segment_names(loaded.encode(image), NAMES)
    expected = memory.segment_names(memory.encode(image), NAMES)
    assert [one.label for one in ours] == [one.label for one in expected]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(ours, expected, strict=True))


def test_clip_needs_a_dino(tmp_path: Path) -> None:
    saved(tmp_path, "vit")
    clip = tmp_path / "clip"
    alone, twice = read_choices([str(clip), f"cass={clip}+{clip}"], tmp_path)
    with pytest.raises(CheckpointError, match="expected CLIP and the folder of a DINO"):
        open_source(alone)
    with pytest.raises(CheckpointError, match="expected DINO, model type one of vit"):
        open_source(twice)
