"""From cells to what an image shows: fragments, things that touch, and what goes together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calico_model.inference.dense_detection import (
    Detection,
    chances_of_names,
    detect_regions,
    expected_iou,
)
from calico_model.inference.generation import predict_regions
from calico_model.interactive.clicks import part_at
from calico_model.modeling.dense_head import (
    WIDTH,
    DenseHead,
    DenseNames,
    DenseRows,
    ObjectClassifier,
)
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.mask_decoder import MaskFeatures
from calico_model.modeling.model import Calico
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind

L = 32
SQUARE = (64, 64)  # pixels
NAMES = DenseNames(("claw", "rotor", "tail"), ("crab", "helicopter"))


class Told(DenseHead):
    """Cells that a test drew."""

    parts = torch.zeros(1, 4, L, L)
    objects = torch.zeros(1, 3, L, L)

    def class_logits(self, features: ImageFeatures) -> tuple[torch.Tensor, torch.Tensor]:
        return self.parts.clone(), self.objects.clone()


WORN = DenseRows(NAMES, torch.zeros(NAMES.rows, WIDTH), torch.zeros(3, 3), 1.0)


@pytest.fixture
def model(photo_model: Calico) -> Calico:
    return photo_model


@pytest.fixture
def head(model: Calico) -> Told:
    told = Told(model.config)
    told.activate(WORN)
    told.parts, told.objects = torch.zeros(1, 4, L, L), torch.zeros(1, 3, L, L)
    told.parts[:, 0] = told.objects[:, 0] = 4.0
    model.dense_head = told
    return told


def features(deepest: torch.Tensor | None = None) -> ImageFeatures:
    """Of images whose deepest photo map is given; the others are not looked at here."""
    deepest = torch.zeros(1, 3, 4, 4) if deepest is None else deepest
    nothing = torch.zeros(len(deepest), 1, 1)
    return ImageFeatures(nothing, nothing, MaskFeatures(torch.zeros(1, 1, 1, 1)), (deepest,))


def read(
    model: Calico, size_hw: tuple[int, int] = SQUARE, image: np.ndarray | None = None
) -> dict[str, Detection]:
    dense = detect_regions(model, features(), [size_hw], None if image is None else [image])
    assert dense.known_parts == set(NAMES.parts)
    assert dense.known_objects == set(NAMES.objects)
    return {one.label: one for one in dense.detections}


def test_a_model_without_rows_sees_nothing(model: Calico) -> None:
    assert not detect_regions(model, features(), [SQUARE]).detections
    model.add_on(["dense_head"])
    assert not detect_regions(model, features(), [SQUARE]).detections


def test_a_head_that_is_not_trusted_sees_and_names_nothing(model: Calico, head: Told) -> None:
    head.parts[0, 1, 4:10, 4:10] = 8.0
    mask = [np.ones(SQUARE, bool)]
    kinds = [RegionKind.COMMON_PART]
    assert detect_regions(model, features(), [SQUARE]).detections
    assert chances_of_names(model, features(), [0], mask, kinds)
    head.activate(replace(WORN, trust=0.0))
    assert not detect_regions(model, features(), [SQUARE]).detections
    assert chances_of_names(model, features(), [0], mask, kinds) == {}


def test_a_head_that_is_asked_alone_is_heard_whatever_its_trust(model: Calico, head: Told) -> None:
    head.parts[0, 1, 4:10, 4:10] = 8.0
    trusted = detect_regions(model, features(), [SQUARE])
    head.activate(replace(WORN, trust=0.0))
    alone = detect_regions(model, features(), [SQUARE], is_alone=True)
    assert alone.trust == 1.0
    assert [one.chance_right for one in alone.detections] == [
        one.chance_right for one in trusted.detections
    ]
    head.activate(DenseRows(DenseNames(), torch.zeros(0, WIDTH), torch.zeros(0, 0), 0.0))
    assert not detect_regions(model, features(), [SQUARE], is_alone=True).detections


def test_photographs_show_what_is_likely_whatever_the_trust_of_the_head(
    model: Calico, head: Told, tokenizer: Tokenizer
) -> None:
    head.parts[0, 1, 4:28, 4:28] = 9.0
    head.activate(replace(WORN, trust=0.0))
    shown = {
        is_familiar: predict_regions(
            model,
            tokenizer,
            features(),
            [SQUARE],
            images=[np.zeros((*SQUARE, 3), np.uint8)],
            asks_language=False,
            is_familiar=is_familiar,
        ).parts
        for is_familiar in (True, False)
    }
    assert shown[True] == ()
    assert [part.label for part in shown[False]] == ["claw"]


def test_cells_of_one_name_are_a_part_and_single_cells_are_noise(model: Calico, head: Told) -> None:
    head.parts[0, 1, 4:10, 4:10] = 8.0
    head.parts[0, 2, 20, 20] = 1.0  # less than the ground there
    seen = read(model)
    assert set(seen) == {"claw"}
    claw = seen["claw"]
    assert not claw.is_object
    assert claw.certainty == pytest.approx(1.0, abs=0.05)
    inside = claw.logits > 0
    assert inside.shape == (2 * L, 2 * L)
    assert inside[8:20, 8:20].all()
    assert int(inside.sum()) < 18**2


def test_what_touches_has_the_name_that_most_of_it_has(model: Calico, head: Told) -> None:
    head.objects[0, 2, 4:20, 4:20] = 8.0
    head.objects[0, 1, 20:24, 4:20] = 8.0  # its lower end looks like a crab
    seen = read(model)
    assert set(seen) == {"helicopter"}
    assert bool((seen["helicopter"].logits[8:48, 8:40] > 0).all())
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
    often = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 9.0], [0.0, 9.0, 9.0]])
    head.activate(replace(WORN, pairs=often))
    assert set(read(model)) == {"rotor", "tail"}
    # Of a single image nothing is learned about what goes together.
    once = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    head.activate(replace(WORN, pairs=once))
    assert set(read(model)) == {"claw", "rotor"}


def classifying(head: Told) -> None:
    """The whole of a thing says crab where the first channel of the photo trunk does."""
    weight = torch.tensor([[0.6, -0.6, 0.0], [-0.6, 0.6, 0.0]])
    head.activate(
        replace(
            WORN,
            classifier=ObjectClassifier(
                torch.zeros(3), torch.ones(3), weight, torch.full((2,), 0.5)
            ),
        )
    )


def looks(*channels: int) -> torch.Tensor:
    """Deepest maps of images that show one channel each."""
    maps = torch.zeros(len(channels), 3, 4, 4)
    for image, channel in enumerate(channels):
        maps[image, channel] = 1.0
    return maps


def test_the_whole_of_a_thing_names_it_where_cells_cannot(model: Calico, head: Told) -> None:
    head.objects[0, 1:, 4:20, 4:20] = 8.0
    classifying(head)
    for channel, name in ((0, "crab"), (1, "helicopter")):
        dense = detect_regions(model, features(looks(channel)), [SQUARE])
        assert [one.label for one in dense.detections] == [name]


def test_the_images_beside_it_say_what_a_doubtful_thing_is(model: Calico, head: Told) -> None:
    """What is compared is mostly of one kind."""
    head.parts, head.objects = (one.repeat(3, 1, 1, 1) for one in (head.parts, head.objects))
    head.objects[:, 1:, 4:20, 4:20] = 8.0
    head.objects[0, 2, 4:20, 4:20] = 8.1  # a little more of a helicopter
    classifying(head)
    alone = detect_regions(model, features(looks(2, 2, 2)), [SQUARE] * 3)
    assert [one.label for one in alone.detections if one.image == 0] == ["helicopter"]
    beside = detect_regions(model, features(looks(2, 0, 0)), [SQUARE] * 3)
    assert [one.label for one in beside.detections] == ["crab"] * 3


def test_several_things_in_one_image_are_told_apart_and_those_of_a_name_are_one(
    model: Calico, head: Told
) -> None:
    head.objects[0, 1, 2:10, 2:10] = 8.0
    head.objects[0, 2, 2:10, 20:30] = 8.0
    head.objects[0, 1, 20:30, 2:10] = 8.0
    seen = read(model)
    assert set(seen) == {"crab", "helicopter"}
    crab = seen["crab"].logits > 0
    assert crab[4:20, 4:20].all()
    assert crab[40:60, 4:20].all()
    assert not crab[:, 32:].any()
    assert seen["helicopter"].cell_chances[2:10, 20:30].min() > 0.9
    assert seen["helicopter"].cell_chances[20:30, 2:10].max() == 0


@pytest.mark.parametrize("size_hw", [(64, 128), (128, 64)])
def test_cells_lie_on_the_image_whatever_its_sides(
    model: Calico, head: Told, size_hw: tuple[int, int]
) -> None:
    head.parts[0, 1, 16:, 16:] = 8.0  # the lower right quarter of the image
    inside = read(model, size_hw)["claw"].logits > 0
    height, width = size_hw[0] // 2, size_hw[1] // 2
    assert inside[height // 2 + 1 : height, width // 2 + 1 : width].all()
    assert not inside[: height // 2 - 1].any()
    assert not inside[:, : width // 2 - 1].any()
    assert not inside[height:].any()
    assert not inside[:, width:].any()


def test_masks_are_sharpened_where_the_pixels_are_given(model: Calico, head: Told) -> None:
    image = np.full((64, 64, 3), 40, np.uint8)
    image[10:50, 10:45] = 220  # cells end at 44 pixels, the thing at 45
    head.objects[0, 1, 5:25, 5:22] = 6.0
    head.parts[0, 1, 5:25, 5:22] = 6.0
    assert read(model)["crab"].mask is None
    for name in ("crab", "claw"):
        mask = read(model, SQUARE, image)[name].mask
        assert mask is not None
        there = image[..., 0] > 100
        assert (mask & there).sum() / (mask | there).sum() > 0.95


def test_regions_are_called_what_most_of_their_cells_are_called(model: Calico, head: Told) -> None:
    head.parts[0, 1, :16], head.parts[0, 2, 16:] = 8.0, 8.0
    head.objects[0, 2] = 8.0
    upper, lower = np.zeros(SQUARE, bool), np.zeros(SQUARE, bool)
    upper[:32], lower[24:] = True, True
    kinds = [RegionKind.COMMON_PART, RegionKind.COMMON_OBJECT, None]
    told = chances_of_names(model, features(), [0, 0, 0], [upper, upper, lower], kinds)
    assert set(told) == {*NAMES.parts, *NAMES.objects}
    assert told["claw"].tolist() == pytest.approx([1.0, 0.0, 0.1], abs=0.03)
    assert told["rotor"].tolist() == pytest.approx([0.0, 0.0, 0.4], abs=0.03)
    assert told["helicopter"].tolist() == pytest.approx([0.0, 1.0, 0.5], abs=0.03)


def test_a_name_in_another_image_of_the_group_makes_surer(model: Calico, head: Told) -> None:
    head.parts = torch.zeros(2, 4, L, L)
    head.objects = torch.zeros(2, 3, L, L)
    head.parts[0, 1, :8, :8] = head.parts[0, 2, 20:28, 20:28] = head.parts[1, 1, :8, :8] = 4.0
    found = detect_regions(model, features(torch.zeros(2, 3, 4, 4)), [SQUARE] * 2)
    chance = {(one.label, one.image): one.chance_right for one in found.detections}
    assert chance["rotor", 0] < chance["claw", 0]


def test_expected_iou_counts_doubt_on_both_sides() -> None:
    chance = torch.zeros(4, 4)
    chance[:2] = 1.0
    inside = chance > 0.5
    assert expected_iou(chance, inside) == pytest.approx(1.0)
    assert expected_iou(chance * 0.8, inside) == pytest.approx(0.8)
    doubt = chance.clone()
    doubt[2] = 0.5  # two more cells may be of it
    assert expected_iou(doubt, inside) == pytest.approx(8 / 10)
    assert expected_iou(torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool)) == 0.0


def test_a_pixel_is_of_the_part_that_is_likeliest_there(model: Calico, head: Told) -> None:
    head.parts[0, 1, :8, :8] = 8.0
    head.parts[0, 1, 24:, 24:] = 8.0
    corner = part_at(model, features(), SQUARE, 3, 3)
    assert corner is not None
    assert corner[:15, :15].all()
    assert not corner[20:].any()  # the other piece of that name is not what was clicked
    assert part_at(model, features(), SQUARE, 30, 30) is None
