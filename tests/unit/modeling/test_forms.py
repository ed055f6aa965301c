"""The forms a released checkpoint may ask for; the paper does not describe CEM's inside."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from calico_model.modeling.adapter import mark_trainable, trainable_count
from calico_model.modeling.backbones import build_dino
from calico_model.modeling.correspondence import CorrespondenceExtraction
from calico_model.modeling.model import Calico
from calico_model.presets import full
from tests.conftest import micro_config


def _attention_share(**form: object) -> int:
    with torch.device("meta"):
        cem = CorrespondenceExtraction(replace(full(), **form))  # type: ignore[arg-type]
    return sum(p.numel() for p in cem.parameters())


def test_every_cem_form_has_the_size_worked_out_from_the_paper() -> None:
    base = full()
    giant = replace(base.dino, width=1536)
    assert _attention_share(cem_norms=False) == 6_133_248
    assert _attention_share(cem_norms=False, cem_projection=True) == 9_018_240
    assert _attention_share(cem_norms=False, dino=giant) == 8_295_936


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("projection", [True, False])
def test_every_cem_form_starts_as_the_identity_and_is_counted(
    norms: bool, projection: bool
) -> None:
    config = replace(micro_config(600), cem_norms=norms, cem_projection=projection)
    cem = CorrespondenceExtraction(config)
    seen = torch.randn(2, 5, config.eva.width)
    assert torch.equal(cem(seen, torch.randn(2, 7, config.dino.width)), seen)
    model = Calico(config)
    assert mark_trainable(model) == trainable_count(config)


def test_the_giant_dino_has_its_published_size() -> None:
    config = replace(full().dino, width=1536, layers=40, heads=24, mlp=6144, gated=True)
    with torch.device("meta"):
        model = build_dino(config)
    assert model.encoder.layer[0].mlp.gate_proj.weight.shape == (4096, 1536)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 1136.5
