"""The dense head: what it reads, what it tells, and how it is put on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calico_model.errors import CheckpointError
from calico_model.inference.images import to_pixels
from calico_model.modeling.adapter import (
    DENSE_CLASSIFIER,
    DENSE_PAIRS,
    DENSE_ROWS,
    DENSE_TRUST,
    Adapter,
    AdapterScope,
    classifier_tensors,
    load_adapter,
    read_adapter,
    write_adapter,
)
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.dense_head import (
    WIDTH,
    DenseHead,
    DenseNames,
    DenseRows,
    ObjectClassifier,
    pooled,
)
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer

NAMES = DenseNames(("wing", "tail"), ("bird",))
L = 32  # of the micro model


@pytest.fixture
def model(photo_model: Calico) -> Calico:
    return photo_model


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
    tensors["dense_head.coarse.weight"] = tensors["dense_head.coarse.weight"] + 1.0
    return Adapter(AdapterScope(), tensors, dense=NAMES)


def head_of(model: Calico) -> DenseHead:
    assert model.dense_head is not None
    return model.dense_head


def test_every_cell_is_told_as_a_part_and_as_an_object(
    head: DenseHead, features: ImageFeatures
) -> None:
    assert NAMES.rows == 5
    head.activate(DenseRows(NAMES, torch.randn(5, WIDTH), torch.zeros(2, 2), 1.0))
    with torch.no_grad():
        parts, objects = head.class_logits(features)
    assert parts.shape == (2, 3, L, L)
    assert objects.shape == (2, 2, L, L)
    head.deactivate()
    assert not head.active.names


@torch.no_grad()
def test_coarse_cells_are_half_as_many_and_need_no_finest_map(
    head: DenseHead, features: ImageFeatures
) -> None:
    levels = [one.float() for one in features.photo]
    fine, coarse = head(levels), head([torch.zeros(0), *levels[1:]], coarse=True)
    assert fine.cells.shape == (2, WIDTH, L, L)
    assert coarse.cells.shape == (2, WIDTH, L // 2, L // 2)
    assert torch.equal(fine.inside, coarse.inside)


@torch.no_grad()
def test_images_of_a_batch_do_not_look_at_each_other(
    head: DenseHead, features: ImageFeatures
) -> None:
    levels = [one.float() for one in features.photo]
    both, alone = head(levels).cells, head([one[1:] for one in levels]).cells
    assert torch.allclose(both[1:], alone, atol=1e-4)


def test_a_thing_is_looked_at_where_it_is() -> None:
    deepest = torch.zeros(1, 2, 4, 4)
    deepest[0, 0, :2], deepest[0, 1, 2:] = 3.0, 5.0
    inside = torch.zeros(1, 32, 32)
    inside[0, :16] = 1.0
    assert torch.allclose(pooled(deepest, inside), torch.tensor([[3.0, 0.0]]), atol=1e-2)
    nowhere = pooled(deepest, torch.zeros(1, 32, 32))
    assert torch.allclose(nowhere, torch.tensor([[1.5, 2.5]]))


def test_an_adapter_brings_its_own_head_and_leaves_the_base_as_it_was(
    adapter: Adapter, model: Calico, tokenizer: Tokenizer
) -> None:
    adapters = AdapterSet(model, tokenizer)
    head = model.dense_head
    assert head is not None
    before = head.coarse.weight.detach().clone()
    adapters.add("new", adapter)
    adapters.activate(adapter)
    assert head.active.names == NAMES
    assert torch.equal(head.coarse.weight, before + 1.0)
    adapters.activate(None)
    assert not head.active.names
    assert torch.equal(head.coarse.weight, before)


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
    width, classifier = head_of(model).inputs[-1], DENSE_CLASSIFIER[0]
    told = ObjectClassifier(
        torch.zeros(width), torch.ones(width), torch.ones(1, width), torch.zeros(1)
    )
    write({**adapter.tensors, **classifier_tensors(told)}, NAMES)
    worn = read_adapter(model, tmp_path / "a", base="abc").dense_rows
    assert worn is not None
    assert worn.classifier is not None
    assert torch.equal(worn.classifier.weight, told.weight)
    write({**adapter.tensors, **classifier_tensors(told), classifier: torch.zeros(3)}, NAMES)
    with pytest.raises(CheckpointError, match=f"{classifier}: wrong shape"):
        read_adapter(model, tmp_path / "a", base="abc")
    write({k: v for k, v in adapter.tensors.items() if k != DENSE_ROWS}, NAMES)
    with pytest.raises(CheckpointError, match="dense_rows: missing"):
        read_adapter(model, tmp_path / "a", base="abc")
