"""The line between pictures an adapter learned from and the base's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from calico_model.data.casting import SceneSplit
from calico_model.errors import CheckpointError
from calico_model.modeling.adapter import DOMAIN_BIAS, DOMAIN_WEIGHT, AdapterScope
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.domain import find_domain, style_of, style_width
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from tests.unit.training.examples import drawn, encoded


def groups(count: int, shift: float, *, seed: int) -> list[ImageFeatures]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return [
        ImageFeatures(
            drawn(2, 5, 4),
            drawn(2, 4, 4),
            MaskFeatures(drawn(2, 8, 4, 4), (drawn(2, 4, 8, 8) + shift, drawn(2, 2, 16, 16))),
        )
        for _ in range(count)
    ]


def test_groups_of_another_look_are_told_apart() -> None:
    domain = find_domain(groups(3, 1.5, seed=1), groups(12, 0.0, seed=2))
    assert domain is not None
    assert all(domain.covers(one) for one in groups(8, 1.5, seed=3))
    assert not any(domain.covers(one) for one in groups(8, 0.0, seed=4))


def test_there_is_no_line_between_groups_of_one_look() -> None:
    assert find_domain(groups(6, 0.0, seed=1), groups(12, 0.0, seed=2)) is None


def test_one_group_is_not_enough() -> None:
    assert find_domain(groups(1, 3.0, seed=1), groups(12, 0.0, seed=2)) is None
    assert find_domain(groups(6, 3.0, seed=1), []) is None


def test_a_look_has_the_width_the_configuration_says(model: Calico) -> None:
    features = encoded(model, drawn(SceneSplit.SEEN, 0).group)
    assert style_of(features).shape == (2, style_width(model.config))


def test_outside_its_domain_an_adapter_is_not_worn(model: Calico, tokenizer: Tokenizer) -> None:
    adapters = AdapterSet(model, tokenizer)
    plain = adapters.base(AdapterScope())
    width = style_width(model.config)
    everywhere = {
        **{name: tensor + 1 for name, tensor in plain.tensors.items()},
        DOMAIN_WEIGHT: torch.zeros(width),
    }
    queries = model.query_tokens
    before = queries.detach().clone()
    side = model.config.mask.encoder.image_size // model.config.mask.encoder.patch_size
    maps = MaskFeatures(torch.zeros(1, width // 2, side, side))
    features = ImageFeatures(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), maps)
    for bias, is_worn in ((1.0, True), (-1.0, False)):
        adapter = replace(plain, tensors={**everywhere, DOMAIN_BIAS: torch.tensor([bias])})
        adapters.check(adapter)
        adapters.select(adapter, features)
        assert torch.equal(queries.detach(), before + 1 if is_worn else before)


def test_half_a_domain_does_not_fit(model: Calico, tokenizer: Tokenizer) -> None:
    adapters = AdapterSet(model, tokenizer)
    plain = adapters.base(AdapterScope())
    broken = replace(plain, tensors={**plain.tensors, DOMAIN_BIAS: torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"domain\.weight"):
        adapters.check(broken)
