"""From cells to what an image shows: fragments, things that touch, and what goes together."""

from __future__ import annotations

import pytest
import torch

from calico_model.dense_reading import Seen, read_dense
from calico_model.features import ImageFeatures
from calico_model.modeling.dense_head import WIDTH, DenseHead, DenseNames
from calico_model.modeling.model import Calico

L = 32
NAMES = DenseNames(("claw", "rotor", "tail"), ("crab", "helicopter"))


class Told(DenseHead):
    """Cells that a test drew."""

    parts = torch.zeros(1, 4, L, L)
    objects = torch.zeros(1, 3, L, L)

    def tell(self, features: ImageFeatures) -> tuple[torch.Tensor, torch.Tensor]:
        return self.parts.clone(), self.objects.clone()


@pytest.fixture
def head(model: Calico) -> Told:
    told = Told(model.config)
    told.wear(NAMES, torch.zeros(NAMES.rows, WIDTH), torch.zeros(3, 3), 1.0)
    told.parts, told.objects = torch.zeros(1, 4, L, L), torch.zeros(1, 3, L, L)
    told.parts[:, 0] = told.objects[:, 0] = 4.0
    model.dense_head = told
    return told


def read(model: Calico) -> dict[str, Seen]:
    reading = read_dense(model, None)  # type: ignore[arg-type]
    assert reading.parts == set(NAMES.parts)
    assert reading.objects == set(NAMES.objects)
    return {one.label: one for one in reading.seen}


def test_a_model_without_rows_sees_nothing(model: Calico) -> None:
    assert not read_dense(model, None).seen  # type: ignore[arg-type]
    model.add_on(["dense_head"])
    assert not read_dense(model, None).seen  # type: ignore[arg-type]


def test_cells_of_one_name_are_a_part_and_single_cells_are_noise(model: Calico, head: Told) -> None:
    head.parts[0, 1, 4:10, 4:10] = 8.0
    head.parts[0, 2, 20, 20] = 1.0  # less than the ground there
    seen = read(model)
    assert set(seen) == {"claw"}
    claw = seen["claw"]
    assert not claw.is_object
    assert claw.certainty == pytest.approx(1.0, abs=0.05)
    inside = claw.logits > 0
    assert inside[4:10, 4:10].all()
    assert int(inside.sum()) == 36


def test_what_touches_has_the_name_that_most_of_it_has(model: Calico, head: Told) -> None:
    head.objects[0, 2, 4:20, 4:20] = 8.0
    head.objects[0, 1, 20:24, 4:20] = 8.0  # its lower end looks like a crab
    seen = read(model)
    assert set(seen) == {"helicopter"}
    assert bool((seen["helicopter"].logits[4:24, 4:20] > 0).all())
    assert 0.6 < seen["helicopter"].certainty < 0.85


def test_a_small_thing_is_less_certain_than_a_large_one(model: Calico, head: Told) -> None:
    head.objects[0, 1, 0:2, 0:2] = 8.0
    head.objects[0, 2, 10:30, 10:30] = 8.0
    seen = read(model)
    assert seen["crab"].certainty < 0.5 < seen["helicopter"].certainty


def test_what_never_goes_together_is_doubted(model: Calico, head: Told) -> None:
    """Cells that are nearly as much a claw as a tail are a tail beside a rotor."""
    head.parts[0, 2, 2:14, 2:14] = 8.0
    head.parts[0, 1, 20:26, 20:26] = 8.5
    head.parts[0, 3, 20:26, 20:26] = 8.0
    assert set(read(model)) == {"claw", "rotor"}
    head.pairs = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 9.0], [0.0, 9.0, 9.0]])
    assert set(read(model)) == {"rotor", "tail"}
    # Of a single image nothing is learned about what goes together.
    head.pairs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    assert set(read(model)) == {"claw", "rotor"}
