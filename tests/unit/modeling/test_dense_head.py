"""The dense head: what it reads, what it tells, and how it is put on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calico_model.errors import CheckpointError
from calico_model.features import ImageFeatures
from calico_model.images import to_pixels
from calico_model.modeling.adapter import (
    DENSE_PAIRS,
    DENSE_ROWS,
    DENSE_TRUST,
    Adapter,
    AdapterScope,
    load_adapter,
    read_adapter,
    write_adapter,
)
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.dense_head import WIDTH, DenseHead, DenseNames
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer

NAMES = DenseNames(("wing", "tail"), ("bird",))
L = 32  # of the micro model


@pytest.fixture
def head(model: Calico) -> DenseHead:
    torch.manual_seed(1)
    model.add_on(["dense_head"])
    model.eval()
    assert model.dense_head is not None
    return model.dense_head


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels(images, model.config))


@pytest.fixture
def adapter(head: DenseHead, model: Calico, tokenizer: Tokenizer) -> Adapter:
    tensors = dict(AdapterSet(model, tokenizer).base(AdapterScope()).tensors)
    tensors[DENSE_ROWS] = torch.randn(NAMES.rows, WIDTH)
    tensors[DENSE_PAIRS] = torch.ones(2, 2)
    tensors[DENSE_TRUST] = torch.ones(1)
    tensors["dense_head.stem.0.weight"] = tensors["dense_head.stem.0.weight"] + 1.0
    return Adapter(AdapterScope(), tensors, dense=NAMES)


def test_every_cell_is_told_as_a_part_and_as_an_object(
    head: DenseHead, features: ImageFeatures
) -> None:
    assert NAMES.rows == 5
    head.wear(NAMES, torch.randn(5, WIDTH), torch.zeros(2, 2), 1.0)
    with torch.no_grad():
        parts, objects = head.tell(features)
    assert parts.shape == (2, 3, L, L)
    assert objects.shape == (2, 2, L, L)
    head.bare()
    assert not head.names


def test_what_is_read_has_the_usual_mean_and_deviation_once_measured(
    head: DenseHead, features: ImageFeatures
) -> None:
    levels = head.levels(features)
    assert [one.shape[-1] for one in levels] == [L, L // 2, L // 4, L // 8]
    head.standardise(levels)
    for level in head.levels(features):
        assert level.mean((0, 2, 3)).abs().max() < 1e-3
        assert (level.std((0, 2, 3)) - 1).abs().max() < 2e-2


def test_an_adapter_brings_its_own_head_and_leaves_the_base_as_it_was(
    adapter: Adapter, model: Calico, tokenizer: Tokenizer
) -> None:
    adapters = AdapterSet(model, tokenizer)
    head = model.dense_head
    assert head is not None
    before = head.stem[0].weight.detach().clone()
    adapters.add("new", adapter)
    adapters.wear(adapter)
    assert head.names == NAMES
    assert torch.equal(head.stem[0].weight, before + 1.0)
    adapters.wear(None)
    assert not head.names
    assert torch.equal(head.stem[0].weight, before)


def test_it_comes_back_from_disk_with_its_names(
    adapter: Adapter, model: Calico, tmp_path: Path
) -> None:
    def write(tensors: dict[str, torch.Tensor], dense: DenseNames) -> None:
        write_adapter(
            tensors,
            tmp_path / "a",
            config=model.config,
            base="abc",
            scope=adapter.scope,
            dense=dense,
        )

    write(dict(adapter.tensors), NAMES)
    again = read_adapter(model, tmp_path / "a", base="abc")
    assert again.dense == NAMES
    assert torch.equal(again.tensors[DENSE_ROWS], adapter.tensors[DENSE_ROWS])
    with pytest.raises(CheckpointError, match="rows of names stay beside the weights"):
        load_adapter(model, tmp_path / "a", base="abc")
    write(dict(adapter.tensors), DenseNames(("wing",), ("bird",)))
    with pytest.raises(CheckpointError, match="dense_rows: wrong shape"):
        read_adapter(model, tmp_path / "a", base="abc")
    write({k: v for k, v in adapter.tensors.items() if k != DENSE_ROWS}, NAMES)
    with pytest.raises(CheckpointError, match="dense_rows: missing"):
        read_adapter(model, tmp_path / "a", base="abc")
