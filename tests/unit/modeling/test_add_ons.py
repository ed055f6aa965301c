"""Exemplar prompts and mask memory: silent until trained, optional in a model folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.inference.images import to_pixels
from calico_model.loading.checkpoints import WEIGHTS, load_model, save_model
from calico_model.modeling.adapter import AdapterScope, adapter_names, base_state
from calico_model.modeling.add_ons import ADD_ONS
from calico_model.modeling.exemplar_prompt import ExemplarPrompt, prototypes
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_memory import History, MaskMemory, MaskSource
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from tests.conftest import build_micro

SIDE, WIDTH = 32, 32


def history(n: int = 2, masks: int = 3) -> History:
    return History(
        10 * torch.randn(n, masks, SIDE, SIDE).sign(),
        torch.randn(n, masks, WIDTH),
        torch.randint(len(MaskSource), (n, masks)),
        torch.ones(n, masks, dtype=torch.bool),
    )


@pytest.fixture
def memory(model: Calico) -> MaskMemory:
    return MaskMemory(model.config)


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels(images, model.config))


def awake(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def decoded(model: Calico, features: ImageFeatures, added: Tensor | None) -> Tensor:
    none = model.mask_decoder.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    sparse = torch.ones(2, 1, WIDTH)
    dense = None if added is None else none + added
    return model.mask_decoder(features.mask, torch.tensor([0, 1]), sparse, dense)[0]


@torch.no_grad()
def test_an_untrained_memory_changes_no_bit(
    model: Calico, memory: MaskMemory, features: ImageFeatures
) -> None:
    plain = decoded(model, features, None)
    assert torch.equal(decoded(model, features, memory(history())), plain)


@torch.no_grad()
def test_a_trained_memory_changes_masks(
    model: Calico, memory: MaskMemory, features: ImageFeatures
) -> None:
    awake(memory)
    assert not torch.equal(
        decoded(model, features, memory(history())), decoded(model, features, None)
    )


@torch.no_grad()
def test_no_history_adds_nothing(memory: MaskMemory) -> None:
    awake(memory)
    some = history()
    hidden = torch.tensor([[True, True, False], [False, False, False]])
    added = memory(replace(some, is_there=hidden))
    assert added[0].abs().max() > 0
    assert torch.equal(added[1], torch.zeros_like(added[1]))


@torch.no_grad()
def test_the_order_of_a_history_means_nothing(memory: MaskMemory) -> None:
    awake(memory)
    one = history()
    turned = torch.tensor([2, 0, 1])
    other = History(
        one.logits[:, turned], one.queries[:, turned], one.source[:, turned], one.is_there
    )
    assert torch.allclose(memory(one), memory(other), atol=1e-5)


@torch.no_grad()
def test_padding_is_not_remembered(memory: MaskMemory) -> None:
    awake(memory)
    one = history()
    shown = replace(one, is_there=torch.tensor([[True, True, False]] * 2))
    first = History(
        one.logits[:, :2], one.queries[:, :2], one.source[:, :2], torch.ones(2, 2).bool()
    )
    # Of numbers up to 40: with several threads other shapes are summed up in another order.
    assert torch.allclose(memory(shown), memory(first), atol=1e-4)


@torch.no_grad()
def test_an_untrained_exemplar_leaves_the_dense_prompt(
    model: Calico, features: ImageFeatures
) -> None:
    shares = torch.zeros(1, SIDE, SIDE)
    shares[:, 4:12, 4:12] = 1.0
    wanted = prototypes(features, torch.tensor([0]), shares)
    sparse, added, presence = ExemplarPrompt(model.config)(features, torch.tensor([1]), wanted)
    assert sparse.shape == (1, 2, WIDTH)
    assert torch.equal(added, torch.zeros_like(added))
    assert presence.shape == (1,)


@torch.no_grad()
def test_prototypes_see_the_outline_and_its_surroundings_only(features: ImageFeatures) -> None:
    shares = torch.zeros(1, SIDE, SIDE)
    shares[:, :8, :8] = 1.0
    before = prototypes(features, torch.tensor([0]), shares)
    mask = replace(features.mask, embedding=features.mask.embedding.clone())
    mask.embedding[:, :, -1, -1] += 100.0
    after = prototypes(replace(features, mask=mask), torch.tensor([0]), shares)
    assert torch.equal(before.inside[0], after.inside[0])
    assert torch.equal(before.around[0], after.around[0])


@pytest.fixture
def grown(photo_model: Calico, tokenizer: Tokenizer, tmp_path: Path) -> tuple[Calico, Path]:
    model = photo_model
    model.add_on(ADD_ONS)
    assert model.exemplar is not None
    assert model.mask_memory is not None
    awake(model.exemplar)
    awake(model.mask_memory)
    save_model(model, tokenizer, tmp_path / "weights", dtype=torch.float32)
    return model, tmp_path / "weights"


def test_add_ons_come_back_bit_for_bit(grown: tuple[Calico, Path]) -> None:
    model, folder = grown
    again, _ = load_model(folder)
    assert again.add_ons == ADD_ONS
    for name, tensor in base_state(model).items():
        assert torch.equal(base_state(again)[name], tensor), name


def test_a_folder_without_add_ons_has_none(
    model: Calico, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_model(model, tokenizer, tmp_path / "old", dtype=torch.float32)
    assert load_model(tmp_path / "old")[0].add_ons == ()


def test_half_an_add_on_is_refused(grown: tuple[Calico, Path]) -> None:
    _, folder = grown
    tensors = load_file(folder / WEIGHTS)
    save_file(
        {k: v for k, v in tensors.items() if k != "mask_memory.first.weight"}, folder / WEIGHTS
    )
    with pytest.raises(CheckpointError, match=r"missing mask_memory\.first\.weight"):
        load_model(folder)


def test_of_the_add_ons_only_the_dense_head_is_an_adapters(
    photo_model: Calico, tokenizer: Tokenizer
) -> None:
    plain = adapter_names(build_micro(tokenizer.size))
    photo_model.add_on(ADD_ONS)
    more = set(adapter_names(photo_model)) - set(plain)
    assert more
    assert all(name.startswith("dense_head.") for name in more)
    assert adapter_names(photo_model, AdapterScope(dense_head=False)) == plain


def test_what_reads_photos_needs_a_photo_trunk(model: Calico) -> None:
    for name in ("dense_head", "familiarity"):
        with pytest.raises(InvalidConfigError, match="photo_trunk: .* needs one"):
            model.add_on([name])


def test_the_photo_trunk_is_no_weight_of_ours(photo_model: Calico) -> None:
    assert photo_model._photo_trunk
    assert set(photo_model.state_dict()) == set(build_micro(1000).state_dict())
