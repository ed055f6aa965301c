"""What corrected images teach the dense head."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from calico_model.data.casting import SceneSplit
from calico_model.modeling.adapter import (
    DENSE_CLASSIFIER,
    DENSE_PAIRS,
    DENSE_ROWS,
    DENSE_SHIFT,
    DENSE_TRUST,
)
from calico_model.modeling.adapter_set import AdapterSet
from calico_model.modeling.dense_head import (
    WIDTH,
    Cells,
    DenseHead,
    DenseNames,
    DenseRows,
    pooled,
)
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.training.online.dense_batches import collate_dense, dense_loss
from calico_model.training.online.dense_learner import (
    DenseHeadLearner,
    DenseViews,
    fit_classifier,
    shift_of,
)
from calico_model.training.online.example import DenseImage
from calico_model.training.online.plan import DensePlan
from calico_model.training.online.update import Replay, UpdatePlan, update_adapter
from calico_model.types import RegionKind
from tests.unit.training.dense_cells import SIDE, Box, dense_image
from tests.unit.training.examples import examples

PLAN = UpdatePlan(least_steps=2, steps_per_example=0, most_steps=2)
CPU = torch.device("cpu")
WING, TAIL = (4, 16, 4, 16), (16, 28, 18, 30)


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


def learner(head: DenseHead, *images: DenseImage, **changes: object) -> DenseHeadLearner:
    plan = DensePlan(**{"steps": 1, "batch": 4, **changes})  # type: ignore[arg-type]
    return DenseHeadLearner(head, plan, None, [DenseViews((one,)) for one in images], seed=1)


def birds(count: int) -> list[DenseImage]:
    """A wing and a tail in ever other places, told apart by their looks."""
    found = []
    for number in range(count):
        places: dict[str, Box] = {"tail": TAIL, "wing": WING}
        if number % 2:
            places = {"tail": WING, "wing": TAIL}
        body = {"bird": (2, 31, 2, 31)}
        found.append(dense_image(places, body, looks={"tail": 0, "wing": 1}, seed=number))
    return found


def test_it_learns_two_names_from_nothing_in_a_few_steps(head: DenseHead) -> None:
    taught = learner(head, *birds(6))
    assert taught.names == DenseNames(("tail", "wing"), ("bird",))
    untaught = taught.tensors
    assert float(untaught[DENSE_TRUST]) == 0.0
    first = taught.learn(1.0, coarse=True)["dense"]
    for step in range(50):
        last = taught.learn(1.0, coarse=step < 25)["dense"]
    assert last < first / 3
    own = taught.tensors
    assert float(own[DENSE_TRUST]) > 0.9
    head.activate(DenseRows(taught.names, own[DENSE_ROWS], own[DENSE_PAIRS], 1.0))
    unseen = birds(8)[6:]
    batch = collate_dense(unseen, taught.names, CPU, coarse=False)
    with torch.no_grad():
        cells = head(batch.levels).cells
    told = torch.einsum("rw,mwij->mrij", own[DENSE_ROWS], cells)[:, :3].argmax(1)
    for row in (1, 2):
        here, there = told == row, batch.parts == row
        assert (here & there).sum() / (here | there).sum() > 0.7


def test_equal_images_give_equal_bits(model: Calico, tokenizer: Tokenizer) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        model.add_on(["dense_head"])
        assert model.dense_head is not None
        taught = learner(model.dense_head, *birds(3))
        for coarse in (True, True, False):
            taught.learn(1.0, coarse=coarse)
        found.append(taught.tensors)
    first, second = found
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_what_nobody_completed_is_no_ground(head: DenseHead) -> None:
    """Where parts are not complete, what is not drawn may be anything."""
    seen = dense_image({"wing": WING}, {"bird": TAIL}, knows_parts=False)
    taught = learner(head, seen)
    rows = taught.tensors[DENSE_ROWS]
    for _ in range(3):
        taught.learn(1.0, coarse=False)
    moved = (taught.tensors[DENSE_ROWS] - rows).abs().amax(1)
    objects = slice(1 + len(taught.names.parts), None)
    assert moved[objects].min() > 1e-3
    assert moved[: objects.start].max() < 1e-3  # nothing but weight decay
    nothing = learner(head, replace(seen, knows_objects=False))
    assert nothing.learn(1.0, coarse=False) == {}
    assert nothing.tensors == {}


def cost(batch_of: DenseImage, logits: torch.Tensor) -> float:
    """Of telling the parts so, by cells that are their own rows."""
    names = DenseNames(("wing",), ("bird",))
    batch = collate_dense([batch_of], names, CPU, coarse=False)
    cells = torch.zeros(1, 4, SIDE, SIDE)
    cells[:, :2] = logits
    told = Cells(cells, torch.zeros(1, 1, SIDE // 2, SIDE // 2))
    return float(dense_loss(told, torch.eye(4), batch, names)[0])


def test_cells_of_an_object_that_nobody_named_cost_little() -> None:
    """Part lists are seldom complete: a wing drawn where none is costs less inside the bird."""
    seen = dense_image({"wing": (2, 10, 2, 10)}, {"bird": (0, 16, 0, 32)})
    right = torch.zeros(1, 2, SIDE, SIDE)
    right[:, 0], right[:, 1] = 4.0, -4.0
    right[:, 0, 2:10, 2:10], right[:, 1, 2:10, 2:10] = -4.0, 4.0
    inside, outside = right.clone(), right.clone()
    inside[:, :, 2:10, 20:28] = right[:, :, 2:10, 2:10]
    outside[:, :, 20:28, 20:28] = right[:, :, 2:10, 2:10]
    base = cost(seen, right)
    assert base < cost(seen, inside) < cost(seen, outside)
    assert cost(seen, inside) - base < 0.3 * (cost(seen, outside) - base)


def test_coarse_batches_hold_every_second_cell_and_no_finest_map() -> None:
    names = DenseNames(("tail", "wing"), ("bird",))
    fine, coarse = (collate_dense(birds(2), names, CPU, coarse=is_it) for is_it in (False, True))
    assert torch.equal(coarse.parts, fine.parts[:, ::2, ::2])
    assert torch.equal(coarse.weights, fine.weights[:, ::2, ::2])
    assert (fine.levels[0].ndim, coarse.levels[0].ndim) == (4, 1)
    assert all(torch.equal(a, b) for a, b in zip(fine.levels[1:], coarse.levels[1:], strict=True))


def test_rows_are_those_of_all_names_whatever_an_image_shows() -> None:
    names = DenseNames(("wing", "tail"), ("fish", "bird"))  # not in order of the alphabet
    batch = collate_dense(birds(1), names, CPU, coarse=False)
    assert int(batch.parts[0, 5, 5]) == 1
    assert int(batch.parts[0, 20, 20]) == 2
    assert int(batch.objects[0, 20, 20]) == 2


def test_images_of_rare_parts_are_drawn_more_often(head: DenseHead) -> None:
    rare = dense_image({"beak": WING})
    taught = learner(head, *birds(9), rare)
    assert taught._weights[-1] == pytest.approx(3 * taught._weights[0])
    assert learner(head, *birds(9), rare, balance=0.0)._weights == [1.0] * 10


def test_parts_that_are_seen_together_are_counted(head: DenseHead) -> None:
    seen = dense_image({"wing": WING, "tail": TAIL}), dense_image({"wing": WING})
    pairs = learner(head, *seen).tensors[DENSE_PAIRS]
    assert pairs.tolist() == [[1.0, 1.0], [1.0, 2.0]]  # tail, wing


def test_there_are_fewer_views_of_many_images() -> None:
    plan = DensePlan(images=200, most_views=5)
    assert [plan.views_for(images) for images in (0, 1, 40, 100, 101, 500)] == [5, 5, 4, 1, 0, 0]


# --- the names of whole objects -------------------------------------------------------------


def shown(name: str, channel: int, seed: int, *, box: Box = (0, 32, 0, 32)) -> DenseImage:
    return dense_image({}, {name: box}, looks={name: channel}, seed=seed, noise=1.0)


def vector(image: DenseImage) -> torch.Tensor:
    return pooled(image.maps[-1][None], image.objects[None] > 0)


def test_the_whole_of_an_object_names_it() -> None:
    kinds = {"bird": 0, "cat": 1, "dog": 2}
    taught = [shown(name, at, 10 * at + n) for name, at in kinds.items() for n in range(4)]
    classifier = fit_classifier(taught, tuple(kinds))
    assert classifier is not None
    for row, (name, at) in enumerate(kinds.items()):
        scores = classifier.scores(vector(shown(name, at, 99)))[0]
        assert int(scores.argmax()) == row
        assert float(scores[row] - scores.sort().values[-2]) > 0.3
    again = fit_classifier(taught, tuple(kinds))
    assert again is not None
    assert torch.equal(again.weight, classifier.weight)


def test_images_of_one_group_that_are_asked_together_are_surer() -> None:
    """One picture may look like another name; the mean of several seldom does."""
    kinds = {"bird": 0, "cat": 1}
    small = (0, 16, 0, 16)
    taught = [shown(name, at, 10 * at + n) for name, at in kinds.items() for n in range(3)]
    classifier = fit_classifier(taught, tuple(kinds))
    assert classifier is not None
    scores = torch.cat(
        [classifier.scores(vector(shown("cat", 1, 100 + n, box=small))) for n in range(16)]
    )
    margins = scores[:, 1] - scores[:, 0]
    groups = margins.view(4, 4).mean(1)
    assert bool((groups > 0).all())
    assert float(groups.min()) > float(margins.min())


def test_with_one_name_there_is_nothing_to_tell_apart(head: DenseHead) -> None:
    assert fit_classifier([shown("bird", 0, n) for n in range(3)], ("bird",)) is None
    assert fit_classifier([], ()) is None
    hidden = replace(shown("cat", 1, 5), objects=torch.zeros(SIDE, SIDE, dtype=torch.uint8))
    assert fit_classifier([shown("bird", 0, 1), hidden], ("bird", "cat")) is None
    assert DENSE_CLASSIFIER[0] not in learner(head, *birds(2)).tensors
    assert DENSE_CLASSIFIER[0] in learner(head, *birds(2), shown("cat", 1, 5)).tensors


# --- as part of an update -------------------------------------------------------------------


def test_an_update_goes_on_with_the_rows_of_its_start(
    model: Calico, head: DenseHead, tokenizer: Tokenizer
) -> None:
    adapters = AdapterSet(model, tokenizer)
    first, second = examples(model, SceneSplit.UNSEEN_DOMAIN, 2)
    start = update_adapter(adapters, [first], Replay(), PLAN).adapter
    assert start.dense
    assert start.tensors[DENSE_ROWS].shape == (start.dense.rows, WIDTH)
    after = update_adapter(adapters, [second], Replay((first,)), PLAN, start=start).adapter
    assert after.dense.parts[: len(start.dense.parts)] == start.dense.parts
    assert after.dense.objects[: len(start.dense.objects)] == start.dense.objects
    adapters.check(after)
    again = update_adapter(adapters, [second], Replay((first,)), PLAN, start=start).adapter
    assert torch.equal(after.tensors[DENSE_ROWS], again.tensors[DENSE_ROWS])
    body = "dense_head.coarse.weight"
    assert not torch.equal(after.tensors[body], start.tensors[body])
    assert torch.equal(head.coarse.weight, adapters.base(PLAN.scope).tensors[body])


def test_a_scope_without_it_leaves_it_alone(
    model: Calico, head: DenseHead, tokenizer: Tokenizer
) -> None:
    plan = replace(PLAN, scope=replace(PLAN.scope, dense_head=False))
    adapters = AdapterSet(model, tokenizer)
    adapter = update_adapter(adapters, examples(model, SceneSplit.SEEN, 1), Replay(), plan).adapter
    assert not adapter.dense
    assert not any("dense" in name for name in adapter.tensors)


def test_an_update_that_teaches_it_nothing_keeps_what_it_knew(
    model: Calico, head: DenseHead, tokenizer: Tokenizer
) -> None:
    adapters = AdapterSet(model, tokenizer)
    (first,) = examples(model, SceneSplit.UNSEEN_DOMAIN, 1)
    start = update_adapter(adapters, [first], Replay(), PLAN).adapter
    common = frozenset({RegionKind.COMMON_PART})  # unique parts may be anywhere
    after = update_adapter(
        adapters, [replace(first, known=common)], Replay(), PLAN, start=start
    ).adapter
    assert after.dense == start.dense
    for name in (DENSE_ROWS, DENSE_PAIRS, DENSE_TRUST, "dense_head.coarse.weight"):
        assert torch.equal(after.tensors[name], start.tensors[name])


def test_a_head_that_learns_on_is_believed_less(head: DenseHead) -> None:
    taught = learner(head, *birds(6))
    shifts = []
    for count in (30, 60):
        for _ in range(count):
            taught.learn(1.0, coarse=False)
        shifts.append(taught.tensors[DENSE_SHIFT].tolist())
    assert shifts[1][0] <= shifts[0][0]
    assert shift_of(([2.2], [3.4])) == pytest.approx([0.0, 0.0])
    assert shift_of(([9.0], [])) == [-2.5, 0.0]
    assert shift_of(([-9.0], [-9.0])) == [1.5, 0.0]  # of objects it says nothing
