"""What accepted regions of each label look like."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.errors import InvalidConfigError
from calico_model.interactive.naming.prototypes import MOST_LABELS, Prototypes

LABELS = ("wheel", "door", "roof")


def vectors(seed: int, count: int, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_nothing_accepted_is_uniform() -> None:
    chances = np.exp(Prototypes().log_chances(vectors(1, 4), LABELS))
    assert chances == pytest.approx(np.full((4, 3), 1 / 3))


def test_a_region_is_called_as_the_accepted_one_it_is_like() -> None:
    wheel, door = vectors(2, 2)
    known = Prototypes().add("wheel", wheel).add("door", door)
    chances = np.exp(known.log_chances(np.stack([3 * wheel, 0.1 * door]), LABELS))
    assert chances.argmax(1).tolist() == [0, 1]
    assert chances.sum(1) == pytest.approx(1.0)


def test_what_is_unlike_everything_goes_to_a_label_nobody_accepted() -> None:
    first, second, third = np.eye(12, dtype=np.float32)[:3]
    known = Prototypes().add("wheel", first).add("door", second)
    assert known.log_chances(third[None], LABELS)[0].argmax() == LABELS.index("roof")


def test_few_accepted_regions_are_kept_as_they_are_in_any_order() -> None:
    rows = vectors(3, 5)
    there, back = Prototypes(), Prototypes()
    for row in rows:
        there = there.add("wheel", row)
    for row in rows[::-1]:
        back = back.add("wheel", row)
    probe = vectors(4, 6)
    assert there.log_chances(probe, LABELS) == pytest.approx(back.log_chances(probe, LABELS))


def test_memory_is_bounded_and_forgets_no_count() -> None:
    known = Prototypes()
    for row in vectors(5, 40):
        known = known.add("wheel", row, per_label=6)
    assert known.looks["wheel"].vectors.shape == (6, 12)
    assert known.regions == 40
    assert np.linalg.norm(known.looks["wheel"].vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_two_most_alike_become_their_mean() -> None:
    x, y = np.eye(4, dtype=np.float32)[:2]
    near = np.array([1.0, 0.1, 0.0, 0.0], np.float32)
    known = Prototypes()
    for row in (x, y, near):
        known = known.add("wheel", row, per_label=2)
    unit = near / np.linalg.norm(near)
    mean = (x + unit) / np.linalg.norm(x + unit)
    looks = known.looks["wheel"]
    assert looks.vectors[int(looks.counts.argmax())] == pytest.approx(mean, abs=1e-6)
    assert sorted(looks.counts.tolist()) == [1.0, 2.0]


def test_the_label_unused_longest_goes_first() -> None:
    known = Prototypes()
    for number in range(MOST_LABELS):
        known = known.add(f"label {number}", vectors(number, 1)[0])
    known = known.add("label 0", vectors(0, 1)[0]).add("one more", vectors(1, 1)[0])
    assert len(known.looks) == MOST_LABELS
    assert "label 0" in known.looks
    assert "label 1" not in known.looks


def test_adding_leaves_the_value_as_it_was() -> None:
    known = Prototypes().add("wheel", vectors(6, 1)[0])
    known.add("door", vectors(7, 1)[0])
    assert tuple(known.looks) == ("wheel",)


@pytest.mark.parametrize(
    "vector", [np.zeros(12), np.full(12, np.nan), np.ones((2, 12)), np.full(5, np.inf)]
)
def test_a_vector_that_says_nothing_is_refused(vector: np.ndarray) -> None:
    known = Prototypes().add("wheel", vectors(8, 1)[0])
    with pytest.raises(InvalidConfigError, match="descriptor"):
        known.add("wheel", vector.astype(np.float32))


def test_descriptors_of_two_networks_are_apart() -> None:
    first, second = vectors(9, 2)
    known = Prototypes().add("wheel", first).add("door", second)
    mixed = known.add("wheel", vectors(10, 1, width=7)[0]).add("roof", vectors(11, 1, width=7)[0])
    probe = vectors(12, 3)
    assert np.array_equal(known.log_chances(probe, LABELS), mixed.log_chances(probe, LABELS))
    assert (mixed.regions, mixed.all_regions) == (2, 4)
    assert mixed.of_width(12) is mixed
    other = mixed.of_width(7)
    assert (sorted(other.looks), other.regions) == (["roof", "wheel"], 2)
    assert mixed.of_width(3).regions == Prototypes().of_width(3).regions == 0
    assert mixed.add("door", second).all_regions == 5
    with pytest.raises(InvalidConfigError, match="descriptor"):
        mixed.log_chances(vectors(13, 1, width=7), LABELS)
