"""Which labels count as told apart, by looks, words and spelling."""

from __future__ import annotations

import numpy as np
import pytest

from calico_model.evaluation.label_check import (
    LEAST_GROUPS,
    LEAST_IMAGES,
    LEAST_REGIONS,
    LabeledLook,
    WordsTally,
    check_looks,
    same_spelling,
)

WIDTH = 16


def looks_of(centres, *, groups=6, each=2, noise=0.3, seed=0):
    """Unit vectors around the centre of each label, in every group."""
    rng = np.random.default_rng(seed)
    looks = []
    for group in range(groups):
        for label, centre in centres.items():
            for _ in range(each):
                vector = centre + noise * rng.normal(size=WIDTH)
                unit = (vector / np.linalg.norm(vector)).astype(np.float32)
                looks.append(LabeledLook(group, label, unit))
    return looks


AXES = np.eye(WIDTH)


@pytest.mark.parametrize("seed", range(5))
def test_only_labels_of_one_look_are_reported(seed):
    centres = {"wheel": AXES[0], "tyre": AXES[0], "door": AXES[1], "window": AXES[2]}
    checked = check_looks(looks_of(centres, seed=seed, noise=0.1))
    assert [set(pair.labels) for pair in checked.alike] == [{"wheel", "tyre"}]
    assert checked.alike[0].regions == (12, 12)
    assert set(checked.judged) == set(centres)


def test_looks_of_drawings_and_of_photographs_are_not_compared():
    centres = {"wheel": AXES[0], "tyre": AXES[0], "door": AXES[1]}
    drawn = looks_of(centres, noise=0.1)
    photographed = [
        LabeledLook(look.group + 6, look.label, np.append(look.vector, 0).astype(np.float32))
        for look in looks_of(centres, noise=0.1, seed=1)
    ]
    checked = check_looks(drawn + photographed)
    assert [set(pair.labels) for pair in checked.alike] == [{"wheel", "tyre"}]
    assert checked.alike[0].regions == (24, 24)
    alone = check_looks(drawn)
    assert [pair.labels for pair in alone.alike] == [pair.labels for pair in checked.alike]


def test_regions_of_the_own_group_do_not_count():
    """Every group has a look of its own: within it labels are apart, across groups they are not."""
    rng = np.random.default_rng(0)
    looks = []
    for group in range(8):
        for label in ("wheel", "tyre"):
            centre = rng.normal(size=WIDTH)
            for _ in range(2):
                vector = centre + 0.01 * rng.normal(size=WIDTH)
                unit = (vector / np.linalg.norm(vector)).astype(np.float32)
                looks.append(LabeledLook(group, label, unit))
    assert [pair.labels for pair in check_looks(looks).alike] == [("wheel", "tyre")]


def test_examples_are_the_most_mistaken_regions():
    looks = looks_of({"wheel": AXES[0], "door": AXES[1]}, groups=6, each=1, noise=0.01)
    wrong = [
        LabeledLook(look.group, "wheel", look.vector) for look in looks if look.label == "door"
    ]
    checked = check_looks([*looks, *wrong])
    (pair,) = checked.alike
    assert set(pair.examples[0]) < set(range(len(looks), len(looks) + 6))


def test_few_regions_or_groups_are_not_judged():
    many = looks_of({"wheel": AXES[0]}, groups=LEAST_GROUPS, each=LEAST_REGIONS)
    few = looks_of({"rare": AXES[0]}, groups=LEAST_REGIONS - 1, each=1)
    narrow = looks_of({"narrow": AXES[0]}, groups=LEAST_GROUPS - 1, each=LEAST_REGIONS)
    checked = check_looks([*many, *few, *narrow])
    assert checked.judged == ("wheel",)
    assert checked.unjudged == ("narrow", "rare")
    assert check_looks([]).alike == ()


def mask(left):
    """A square of 10 pixels."""
    drawn = np.zeros((20, 40), bool)
    drawn[5:15, left : left + 10] = True
    return drawn


def test_words_with_one_answer_are_reported():
    tally = WordsTally()
    for image in range(LEAST_IMAGES):
        moved = mask(21) if image else mask(0)
        tally.add("s", {"sofa": mask(20), "couch": moved, "lamp": mask(0)}, {})
    (found,) = tally.alike()
    assert (found.labels, found.images) == (("couch", "sofa"), LEAST_IMAGES)
    assert found.share == pytest.approx((LEAST_IMAGES - 1) / LEAST_IMAGES)


def test_a_word_that_finds_another_label_is_reported():
    tally = WordsTally()
    for _ in range(LEAST_IMAGES):
        tally.add("s", {"back": mask(20), "seat": mask(19)}, {"back": mask(0), "seat": mask(20)})
    (found,) = tally.stray()
    assert (found.label, found.instead, found.share) == ("back", "seat", 1.0)


def test_one_image_is_no_evidence():
    tally = WordsTally()
    for _ in range(LEAST_IMAGES - 1):
        tally.add("s", {"a": mask(0), "b": mask(0)}, {"a": mask(20), "b": mask(0)})
    assert tally.alike() == tally.stray() == ()


def test_sources_are_counted_apart():
    tally = WordsTally()
    for _ in range(LEAST_IMAGES):
        tally.add("good", {"a": mask(0), "b": mask(20)}, {})
        tally.add("bad", {"a": mask(0), "b": mask(0)}, {})
    assert [found.source for found in tally.alike()] == ["bad"]


def test_spellings_of_one_name():
    assert same_spelling(["Wheel", "wheels", "door", "wheel", "wheel"]) == (
        ("Wheel", "wheels", "wheel"),
    )
