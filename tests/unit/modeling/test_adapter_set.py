"""Many adapters, one base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calico_model.errors import CheckpointError
from calico_model.modeling.adapter import (
    INPUT_ROWS,
    OUTPUT_ROWS,
    Adapter,
    AdapterScope,
    load_adapter,
    read_adapter,
    write_adapter,
)
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.dense_head import DenseNames
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer

LABELS = ("rotor", "cargo hook")


@pytest.fixture
def adapters(model: Calico, tokenizer: Tokenizer) -> AdapterSet:
    return AdapterSet(model, tokenizer)


@pytest.fixture
def other(adapters: AdapterSet) -> Adapter:
    """Another value everywhere, and two labels."""
    base = adapters.base(AdapterScope())
    rows = torch.arange(2.0)[:, None].expand(2, adapters.model.config.language.width) + 1
    tensors = {name: tensor + 0.5 for name, tensor in base.tensors.items()}
    tensors |= {INPUT_ROWS: rows.clone(), OUTPUT_ROWS: rows + 4}
    return Adapter(base.scope, tensors, LABELS)


def test_taking_an_adapter_off_gives_the_base_back(adapters: AdapterSet, other: Adapter) -> None:
    before = {name: t.clone() for name, t in adapters.model.state_dict().items()}
    adapters.activate(other)
    worn = adapters.model.state_dict()
    assert torch.equal(worn["query_tokens"], other.tensors["query_tokens"])
    row = adapters.tokenizer.label_ids[1]
    assert bool((worn["language.model.embed_tokens.weight"][row] == 2).all())
    assert bool((worn["language.lm_head.weight"][row] == 6).all())
    adapters.activate(None)
    after = adapters.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_base_as_an_adapter_changes_nothing(adapters: AdapterSet) -> None:
    before = {name: t.clone() for name, t in adapters.model.state_dict().items()}
    adapters.activate(adapters.base(AdapterScope()))
    after = adapters.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_smaller_adapter_does_not_keep_the_rest_of_another(
    adapters: AdapterSet, other: Adapter
) -> None:
    queries = AdapterScope(lora=False, cam=False, cem=False, mask_decoder=False)
    base = adapters.base(AdapterScope())
    small = Adapter(queries, {"query_tokens": base.tensors["query_tokens"] + 3})
    adapters.activate(other)
    adapters.activate(small)
    own = dict(adapters.model.named_parameters())
    for name, tensor in base.tensors.items():
        expected = tensor + 3 if name == "query_tokens" else tensor
        assert torch.equal(own[name], expected), name


def test_labels_are_written_and_read_as_one_token(adapters: AdapterSet, other: Adapter) -> None:
    speaking = adapters.activate(other)
    text = "<p> the cargo hook </p> [SEG] (IMAGE1)"
    ids = speaking.encode(text)
    assert adapters.tokenizer.label_ids[1] in ids
    assert "cargo hook" in speaking.decode(ids)
    assert adapters.tokenizer.label_ids[1] not in adapters.activate(None).encode(text)


def test_who_reads_the_set_sees_it_before_or_after(adapters: AdapterSet, other: Adapter) -> None:
    adapters.add("one", other)
    adapters.add("two", adapters.base(AdapterScope()))
    assert adapters.versions == ("one", "two")
    assert adapters.get("one") is other
    adapters.drop("one")
    adapters.drop("one")
    assert adapters.versions == ("two",)
    assert adapters.get("one") is None


def test_an_adapter_that_does_not_fit_is_refused(adapters: AdapterSet, other: Adapter) -> None:
    shapes = dict(other.tensors) | {"query_tokens": torch.zeros(1, 1)}
    with pytest.raises(CheckpointError, match="query_tokens"):
        adapters.add("bad", replace(other, tensors=shapes))
    with pytest.raises(CheckpointError, match=INPUT_ROWS):
        adapters.add("bad", replace(other, labels=()))
    values = dict(other.tensors) | {"query_tokens": other.tensors["query_tokens"] * torch.nan}
    with pytest.raises(CheckpointError, match="query_tokens"):
        adapters.add("bad", replace(other, tensors=values))
    assert adapters.versions == ()


def test_a_lent_model_comes_back_bare(adapters: AdapterSet, other: Adapter) -> None:
    before = {name: t.clone() for name, t in adapters.model.state_dict().items()}

    def break_it() -> None:
        with adapters.borrowed(other), torch.no_grad():
            adapters.model.query_tokens.zero_()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_it()
    after = adapters.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_renamed_adapter_keeps_its_rows_and_never_has_two_of_one_name(other: Adapter) -> None:
    first, second = other.labels
    named = replace(other, dense=DenseNames(("lid", "rim"), ("pot",)))
    found = named.renamed({"lid": "cover", "pot": "pan", first: "new", second: first, "x": "y"})
    assert found.labels == ("new", second)  # `first` is still a name of the adapter
    assert found.dense == DenseNames(("cover", "rim"), ("pan",))
    assert found.tensors is named.tensors
    assert named.renamed({"lid": "rim"}).dense == named.dense
    assert named.renamed({"lid": "top", "rim": "top"}).dense.parts == ("top", "rim")
    assert named.renamed({}).labels == LABELS


def test_labels_survive_the_disk(adapters: AdapterSet, other: Adapter, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_adapter(
        other.tensors,
        folder,
        config=adapters.model.config,
        base="abc",
        scope=other.scope,
        labels=other.labels,
    )
    again = read_adapter(adapters.model, folder, base="abc")
    assert again.labels == LABELS
    assert again.scope == other.scope
    assert all(torch.equal(tensor, again.tensors[n]) for n, tensor in other.tensors.items())
    with pytest.raises(CheckpointError, match="labels"):
        load_adapter(adapters.model, folder, base="abc")
