"""Older and newer groups of a set, and what was lost, against counts worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.data.coco_parts import ANNOTATIONS_FILE
from calico_model.errors import InvalidConfigError
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, PartMask, RegionKind
from research.bench.older import (
    Found,
    OlderNewer,
    bench_older,
    choose,
    count_found,
    measure,
    older_figures,
)


def part(label, rows, *, image=0, kind=RegionKind.COMMON_PART):
    mask = np.zeros((20, 10), bool)
    mask[rows] = True
    return PartMask(image, kind, label, mask)


def labeled(*truth):
    images = tuple(np.zeros((20, 10, 3), np.uint8) for _ in "ab")
    return LabeledGroup(ImageGroup(images, ("a", "b")), truth)


def predicted(*parts):
    return GroupPrediction(parts, version="v")


def test_groups_to_measure_on_are_of_the_first_class_and_never_learned():
    classes = ["bus", "car"] * 3 + ["van"] * 2 + ["car"] * 3
    chosen = choose(classes, 2, 3)
    assert chosen == OlderNewer((1, 3), (0, 2), (5, 8, 9), (("car",), ("bus",)))


def test_small_classes_join_and_small_sets_learn_less():
    # Ten to learn and four to measure on take two classes, ten others the rest.
    classes = [name for name in "abcd" for _ in range(7)]
    chosen = choose(classes, 10, 20)
    assert chosen is not None
    assert chosen.classes == (("a", "b"), ("c", "d"))
    assert (len(chosen.older), len(chosen.newer), len(chosen.measured)) == (10, 10, 4)
    # Eight people, three dogs, two cats and three others: five each time, at most.
    few = choose(["person"] * 8 + ["dog"] * 3 + ["cat"] * 2 + ["cow", "bird", "horse"], 10, 20)
    assert few is not None
    assert (len(few.older), len(few.newer)) == (5, 5)
    assert few.classes[0] == ("person", "dog")
    assert not set(few.classes[0]) & set(few.classes[1])
    assert choose(["person"] * 40, 10, 20) is None


def test_a_part_is_found_with_its_name_in_its_image_whatever_its_kind():
    truth = labeled(
        part("wheel", slice(0, 8)),
        part("door", slice(8, 16)),
        part("wheel", slice(0, 8), image=1),
        part("car", slice(0, 20), kind=RegionKind.COMMON_OBJECT),
    )
    prediction = predicted(
        part("Wheel", slice(0, 5), kind=RegionKind.UNIQUE_PART),  # IoU 5/8
        part("wheel", slice(0, 6)),  # again: the true one counts once
        part("door", slice(8, 11)),  # IoU 3/8
        part("roof", slice(8, 16)),
        part("car", slice(0, 20), kind=RegionKind.COMMON_OBJECT),
        part("wheel", slice(0, 8), image=1, kind=RegionKind.COMMON_OBJECT),
    )
    assert count_found(prediction, truth) == 1


class Forgetful:
    """Knows the names that it learned last."""

    def __init__(self) -> None:
        self.version, self.known, self.new, self.calls = "v", set(), set(), []

    def predict(self, group):
        return predicted(*(part(name, slice(0, 8)) for name in sorted(self.known)))

    def correct(self, labeled, prediction):
        self.calls.append((labeled, len(prediction.parts)))
        self.new |= {one.label for one in labeled.parts}

    def learn(self):
        self.known, self.new = self.new, set()
        return 1.0


def test_older_groups_are_learned_and_measured_before_the_newer_ones():
    older, newer = labeled(part("wheel", slice(0, 8))), labeled(part("leg", slice(0, 8)))
    measured = [labeled(part("wheel", slice(0, 8)), part("door", slice(8, 16)))] * 3
    loop = Forgetful()
    assert measure(loop, [older], [newer], measured) == Found(parts=6, before=3, after=0)
    assert loop.calls == [(older, 0), (newer, 1)]


def test_projects_of_a_set_count_together():
    chairs = Found(40, 20, 21) + Found(60, 30, 25)
    figures = older_figures({"chairs": chairs, "cars": Found(10, 5, 6)}, {"chairs": 10, "cars": 7})
    assert figures["sets"]["chairs"] == {
        "groups": 10,
        "parts": 100,
        "before": 50.0,
        "after": 46.0,
        "lost": 4.0,
    }
    assert figures["lost_by_set"] == {"chairs": 4.0, "cars": -10.0}
    assert (figures["worst"], figures["worst_lost"]) == ("chairs", 4.0)


def test_a_folder_without_sets_is_an_error(tmp_path):
    with pytest.raises(
        InvalidConfigError, match=f"--sets: expected folders with {ANNOTATIONS_FILE}"
    ):
        bench_older(tmp_path)
