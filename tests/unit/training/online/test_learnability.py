"""Whether corrections can be learned from each other: each group left out in turn."""

from __future__ import annotations

import random

import torch

from calico_model.training.online.example import DenseImage
from calico_model.training.online.learnability import CrossPrediction, leave_one_out
from tests.unit.training.dense_cells import SIDE, Box, dense_image

LOOKS = {"tail": 0, "wing": 1, "beak": 2}


def boxes(source: random.Random) -> dict[str, Box]:
    """A box for every name, none over another."""
    rows = [0, 11, 22]
    source.shuffle(rows)
    found = {}
    for name, row in zip(LOOKS, rows, strict=True):
        left = source.randrange(0, 16)
        found[name] = (row, row + 9, left, left + 12)
    return found


def group(seed: int) -> list[DenseImage]:
    source = random.Random(seed)
    return [dense_image(boxes(source), looks=LOOKS, seed=10 * seed + k, noise=0.5) for k in (0, 1)]


def drawn_anywhere(image: DenseImage, source: random.Random) -> DenseImage:
    """The same picture with outlines that have nothing to do with it."""
    other = dense_image(boxes(source), looks={})
    return DenseImage(image.maps, other.parts, image.objects, other.part_names, (), True, True)


def renamed(image: DenseImage, source: random.Random) -> DenseImage:
    """The same outlines with each other's names."""
    order = [0, *source.sample(range(1, 4), 3)]
    codes = torch.tensor(order, dtype=torch.uint8)[image.parts.long()]
    return DenseImage(image.maps, codes, image.objects, image.part_names, (), True, True)


def mean(told: tuple[CrossPrediction, ...]) -> float:
    return sum(one.right for one in told) / len(told)


def test_right_corrections_are_told_from_each_other() -> None:
    told = leave_one_out([group(seed) for seed in range(6)])
    assert [one.names for one in told] == [6] * 6
    assert min(one.right for one in told) > 0.7


def test_random_outlines_and_shuffled_names_come_to_little() -> None:
    source = random.Random(5)
    groups = [group(seed) for seed in range(6)]
    right = mean(leave_one_out(groups))
    for spoil in (drawn_anywhere, renamed):
        wrong = mean(leave_one_out([[spoil(one, source) for one in each] for each in groups]))
        assert wrong < 0.5 * right


def test_a_wrong_batch_among_right_ones_stands_out() -> None:
    source = random.Random(6)
    right = [group(seed) for seed in range(6)]
    wrong = [[drawn_anywhere(one, source) for one in group(seed)] for seed in (20, 21)]
    told = leave_one_out([*right, *wrong])
    assert mean(told[6:]) < 0.5 * mean(told[:6])


def test_only_names_that_another_group_shows_are_asked() -> None:
    lone = dense_image({"horn": (0, 9, 0, 12), "wing": (11, 20, 0, 12)}, looks=LOOKS)
    told = leave_one_out([[lone], *(group(seed) for seed in range(3))])
    assert [name for name, _ in told[0].shares] == ["wing"]
    assert {name for name, _ in told[1].shares} == set(LOOKS)


def test_what_is_alone_or_unknown_says_nothing() -> None:
    assert leave_one_out([]) == ()
    assert [one.names for one in leave_one_out([group(1)])] == [0]
    unknown = dense_image(boxes(random.Random(1)), looks=LOOKS, knows_parts=False)
    told = leave_one_out([[unknown], group(1), group(2)])
    assert [one.names for one in told] == [0, 6, 6]
    assert leave_one_out([[unknown]])[0].right == 0.0


def test_any_number_of_cells_will_do() -> None:
    """The photo trunk of other weights may have another side."""
    assert SIDE % 24
    for side in (24, 96):
        scaled = [[_scaled(one, side) for one in group(seed)] for seed in range(4)]
        assert mean(leave_one_out(scaled)) > 0.6


def _scaled(image: DenseImage, side: int) -> DenseImage:
    maps = tuple(
        torch.nn.functional.interpolate(one[None], size=side >> level)[0]
        for level, one in enumerate(image.maps)
    )
    codes = torch.nn.functional.interpolate(image.parts[None, None].float(), size=side)[0, 0]
    return DenseImage(maps, codes.byte(), codes.byte() * 0, image.part_names, (), True, True)
