"""What corrected groups teach the dense head."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from calico_model.data.casting import Split
from calico_model.dense_reading import read_dense
from calico_model.modeling.adapter import DENSE_PAIRS, DENSE_ROWS, DENSE_TRUST
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.dense_head import WIDTH, DenseHead, DenseNames
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.dense_batches import DenseBatch, varied
from calico_model.training.dense_learner import DenseLearner, DensePlan
from calico_model.training.example import Example, make_example
from calico_model.training.finetune import FinetunePlan, Replay, finetune
from calico_model.types import PartMask, RegionKind
from tests.unit.training.examples import SIZE_PX, drawn, encoded, examples, part

PLAN = FinetunePlan(least_steps=2, steps_per_example=0, most_steps=2)


@pytest.fixture
def head(model: Calico) -> DenseHead:
    torch.manual_seed(1)
    model.add_on(["dense_head"])
    model.eval()
    assert model.dense_head is not None
    return model.dense_head


def example(model: Calico, parts: tuple[PartMask, ...], **changes: object) -> Example:
    group = drawn(Split.SEEN, 0).group
    sizes_hw = [(SIZE_PX, SIZE_PX)] * 2
    return make_example("a", encoded(model, group), sizes_hw, parts, **changes)  # type: ignore[arg-type]


def learner(head: DenseHead, *several: Example, **changes: object) -> DenseLearner:
    plan = DensePlan(steps=1, batch=4, **changes)  # type: ignore[arg-type]
    return DenseLearner(head, plan, None, several, [1.0] * len(several), seed=1)


def test_it_learns_where_a_new_part_is(model: Calico, head: DenseHead) -> None:
    wing, bird = part("Wings"), part("bird", kind=RegionKind.COMMON_OBJECT, box=(0, 40, 0, 40))
    seen = example(model, (wing, bird, replace(wing, image_index=1)))
    taught = learner(head, seen, unseen=0.0, rate=5e-3, row_rate=5e-3)
    assert taught.names == DenseNames(("wing",), ("bird",))
    first = taught.learn(1.0)["dense"]
    for _ in range(60):
        last = taught.learn(1.0)["dense"]
    assert last < first / 2
    own = taught.tensors
    head.wear(taught.names, own[DENSE_ROWS], own[DENSE_PAIRS], float(own[DENSE_TRUST]))
    reading = read_dense(model, seen.features)
    (found,) = [one for one in reading.seen if one.label == "wing" and one.image == 0]
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[4:12, 4:12] = True
    overlap = ((found.logits > 0) & inside).sum() / ((found.logits > 0) | inside).sum()
    assert overlap > 0.6


def test_what_nobody_completed_is_no_ground(model: Calico, head: DenseHead) -> None:
    """Where parts are not complete, what is not drawn may be anything."""
    object_only = frozenset({RegionKind.COMMON_OBJECT})
    bird = part("bird", kind=RegionKind.COMMON_OBJECT)
    taught = learner(head, example(model, (bird, part("wing")), known=object_only))
    assert taught.names.objects == ("bird",)
    rows = taught.tensors[DENSE_ROWS]
    for _ in range(3):
        taught.learn(1.0)
    after = taught.tensors[DENSE_ROWS]
    objects = slice(1 + len(taught.names.parts), None)
    moved = (after - rows).abs().amax(1)
    assert moved[objects].min() > 1e-3
    assert moved[: objects.start].max() < 1e-4  # nothing but weight decay
    nothing = learner(head, example(model, (part("wing"),), known=frozenset()))
    assert nothing.learn(1.0) == {}
    assert nothing.tensors == {}


def test_parts_that_are_seen_together_are_counted(model: Calico, head: DenseHead) -> None:
    one = example(model, (part("wing"), part("tail"), part("wing", 1)))
    pairs = learner(head, one).tensors[DENSE_PAIRS]
    assert pairs.tolist() == [[1.0, 1.0], [1.0, 2.0]]  # tail, wing


def test_an_update_goes_on_with_the_rows_of_its_start(
    model: Calico, head: DenseHead, tokenizer: Tokenizer
) -> None:
    adapters = AdapterSet(model, tokenizer)
    first, second = examples(model, Split.UNSEEN_DOMAIN, 2)
    start = finetune(adapters, [first], Replay(), PLAN).adapter
    assert start.dense
    assert start.tensors[DENSE_ROWS].shape == (start.dense.rows, WIDTH)
    after = finetune(adapters, [second], Replay((first,)), PLAN, start=start).adapter
    assert after.dense.parts[: len(start.dense.parts)] == start.dense.parts
    assert after.dense.objects[: len(start.dense.objects)] == start.dense.objects
    adapters.check(after)
    again = finetune(adapters, [second], Replay((first,)), PLAN, start=start).adapter
    assert torch.equal(after.tensors[DENSE_ROWS], again.tensors[DENSE_ROWS])
    body = "dense_head.stem.0.weight"
    assert not torch.equal(after.tensors[body], start.tensors[body])
    assert torch.equal(head.stem[0].weight, adapters.base(PLAN.scope).tensors[body])


def test_a_scope_without_it_leaves_it_alone(
    model: Calico, head: DenseHead, tokenizer: Tokenizer
) -> None:
    plan = replace(PLAN, scope=replace(PLAN.scope, dense_head=False))
    adapters = AdapterSet(model, tokenizer)
    adapter = finetune(adapters, examples(model, Split.SEEN, 1), Replay(), plan).adapter
    assert not adapter.dense
    assert not any("dense" in name for name in adapter.tensors)


def test_left_does_not_become_right() -> None:
    cells = torch.arange(16.0).view(1, 1, 4, 4)
    batch = DenseBatch([cells], cells, cells, torch.ones(1, 2))
    drawn = [torch.Generator().manual_seed(seed) for seed in range(20)]
    kept = [varied(batch, one, unseen=0.0, mirrors=False) for one in drawn]
    assert all(torch.equal(one.parts, cells) for one in kept)
    drawn = [torch.Generator().manual_seed(seed) for seed in range(20)]
    turned = [varied(batch, one, unseen=0.0, mirrors=True) for one in drawn]
    assert any(not torch.equal(one.parts, cells) for one in turned)
    assert all(torch.equal(one.parts, one.levels[0]) for one in turned)


def test_an_update_that_teaches_it_nothing_keeps_what_it_knew(
    model: Calico, head: DenseHead, tokenizer: Tokenizer
) -> None:
    adapters = AdapterSet(model, tokenizer)
    (first,) = examples(model, Split.UNSEEN_DOMAIN, 1)
    start = finetune(adapters, [first], Replay(), PLAN).adapter
    common = frozenset({RegionKind.COMMON_PART})  # unique parts may be anywhere
    after = finetune(adapters, [replace(first, known=common)], Replay(), PLAN, start=start).adapter
    assert after.dense == start.dense
    for name in (DENSE_ROWS, DENSE_PAIRS, DENSE_TRUST, "dense_head.stem.0.weight"):
        assert torch.equal(after.tensors[name], start.tensors[name])
