"""TaskPredictor closer: where, what is seen there, and what becomes of the mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from calico_model.inference.images import normalise, to_mask
from calico_model.inference.low_res_mask import Decoded
from calico_model.inference.mask_refinement import (
    LIMIT,
    Focus,
    Picture,
    fine_map_of,
    focus_on,
    merge,
    refine_masks,
    view_of,
)
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.modeling.mask_refiner import VIEW, MaskRefiner, Plane

SIZE_HW = (120, 200)


def square(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8)


@pytest.fixture
def refiner() -> MaskRefiner:
    torch.manual_seed(3)
    return MaskRefiner(3).eval()


@pytest.fixture
def picture(image: np.ndarray) -> Picture:
    """A wide image: it fills three fifths of the square frame's height."""
    rows = torch.linspace(0.5 / 16, 1 - 0.5 / 16, 16)
    fine = torch.stack([rows[:, None].expand(16, 16), rows.expand(16, 16), torch.ones(16, 16)])
    return Picture(image, fine, (0.6, 1.0))


def decoded(mask: np.ndarray) -> Decoded:
    """As if the decoder had drawn a mask, in a frame as fine as the image."""
    side = max(SIZE_HW)
    frame = np.full((side, side), -9.0, np.float32)
    frame[: SIZE_HW[0]][mask] = 7.0
    return Decoded(torch.from_numpy(frame), SIZE_HW, side)


def test_the_rectangle_holds_the_mask_and_all_that_was_pointed_at() -> None:
    mask = square(40, 60, 50, 90)
    assert focus_on(mask, None) == Focus(42, 36, 98, 64)
    asked = MaskPrompt((Click(150.5, 20.5),), previous=square(100, 110, 60, 70))
    place = focus_on(mask, asked)
    assert place is not None
    assert place.x0 <= 50
    assert place.x1 > 150
    assert place.y0 <= 20
    assert place.y1 >= 110


@pytest.mark.parametrize("at", [(0.0, 0.0), (199.9, 119.9), (500.0, -30.0)])
def test_a_lone_click_has_something_around_it_inside_the_image(at: tuple[float, float]) -> None:
    place = focus_on(square(0, 0, 0, 0), MaskPrompt((Click(*at),)))
    assert place is not None
    assert 0 <= place.x0 < place.x1 <= SIZE_HW[1]
    assert 0 <= place.y0 < place.y1 <= SIZE_HW[0]


def test_nothing_is_nowhere(refiner: MaskRefiner, picture: Picture) -> None:
    empty = square(0, 0, 0, 0)
    assert focus_on(empty, None) is None
    (mask,) = refine_masks(refiner, [picture], [decoded(empty)], [None])
    assert not mask.any()


def test_a_view_shows_what_there_is(image: np.ndarray) -> None:
    mask, place = square(40, 60, 50, 90), Focus(50, 40, 90, 60)
    prompt = MaskPrompt(
        (Click(60.5, 45.5), Click(85.5, 55.5, is_positive=False)),
        box=(70.0, 60.0, 50.0, 40.0),
        previous=square(40, 50, 50, 90),
    )
    view = view_of(image, place, decoded(mask), prompt)
    assert view.shape == (len(Plane), VIEW, VIEW)
    assert torch.all(view[Plane.COARSE, 8:-8, 8:-8] == 1)  # cut off
    assert view[Plane.PREVIOUS, 5].mean() == 1
    assert view[Plane.PREVIOUS, -5].mean() == -1
    for plane, (x, y) in ((Plane.POSITIVE, (10.5, 5.5)), (Plane.NEGATIVE, (35.5, 15.5))):
        rows, columns = np.nonzero(view[plane].numpy())
        assert columns.mean() == pytest.approx(x / 40 * VIEW, abs=1)
        assert rows.mean() == pytest.approx(y / 20 * VIEW, abs=1)
    assert torch.all(view[Plane.BOX, :, : VIEW // 2] == 1)
    assert torch.all(view[Plane.BOX, :, VIEW // 2 :] == -1)
    alone = view_of(image, place, decoded(mask), None)
    assert torch.equal(alone[: Plane.COARSE + 1], view[: Plane.COARSE + 1])
    assert not alone[Plane.PREVIOUS :].any()


def test_an_untrained_refiner_changes_nothing(refiner: MaskRefiner, picture: Picture) -> None:
    rng = np.random.default_rng(1)
    logits = [torch.from_numpy(rng.normal(0, 3, (32, 32)).astype(np.float32)) for _ in range(3)]
    coarse = [Decoded.of(one, SIZE_HW, 128) for one in logits]
    prompts = [None, MaskPrompt((Click(3, 3),)), MaskPrompt(box=(0, 0, 30, 30))]
    with torch.inference_mode():
        masks = refine_masks(refiner, [picture] * 3, coarse, prompts)
    for mask, own in zip(masks, logits, strict=True):
        assert np.array_equal(mask, to_mask(own, SIZE_HW, 128))


def test_what_is_added_overrules_a_drawn_mask_inside_and_nothing_outside() -> None:
    mask, place = square(40, 60, 50, 90), Focus(60, 0, 200, 120)
    gone = merge(mask, place, np.full((VIEW, VIEW), -LIMIT - 1, np.float32))
    assert np.array_equal(gone, square(40, 60, 50, 60))
    more = merge(mask, place, np.full((VIEW, VIEW), LIMIT + 1, np.float32))
    assert np.array_equal(more, square(40, 60, 50, 60) | square(0, 120, 60, 200))
    same = merge(mask, place, np.full((VIEW, VIEW), LIMIT - 1, np.float32))
    assert np.array_equal(same, mask)


def test_what_is_added_overrules_the_decoder() -> None:
    mask, place = square(40, 60, 50, 90), Focus(40, 20, 120, 80)
    gone = merge(decoded(mask), place, np.full((VIEW, VIEW), -LIMIT - 1, np.float32))
    assert not gone.any()
    more = merge(decoded(mask), place, np.full((VIEW, VIEW), LIMIT + 1, np.float32))
    assert np.array_equal(more, square(20, 80, 40, 120))
    near = merge(decoded(mask), place, np.full((VIEW, VIEW), 1e-3, np.float32))
    assert (near ^ mask).sum() < 0.05 * mask.sum()  # its edges lie between two cells of the view


def test_a_large_place_is_averaged(image: np.ndarray) -> None:
    large = cv2.resize(image, None, fx=7, fy=7, interpolation=cv2.INTER_LINEAR)
    large = cv2.GaussianBlur(large, (0, 0), 30)
    view = view_of(large, Focus(20, 10, 1395, 833), np.zeros(large.shape[:2], np.bool_), None)
    averaged = cv2.resize(large[10:833, 20:1395], (VIEW, VIEW), interpolation=cv2.INTER_AREA)
    seen = view[: Plane.BLUE + 1].permute(1, 2, 0)
    assert (seen - normalise(averaged)).abs().mean() < 0.01


def test_the_decoders_map_is_seen_where_the_image_is(picture: Picture) -> None:
    seen = fine_map_of(picture, Focus(50, 30, 150, 90))
    assert seen.shape == (3, VIEW // 2, VIEW // 2)
    ys, xs = seen[0, :, 0], seen[1, 0]
    assert float(ys[0]) == pytest.approx(30 / 200, abs=0.01)
    assert float(ys[-1]) == pytest.approx(90 / 200, abs=0.01)
    assert float(xs[0]) == pytest.approx(50 / 200, abs=0.01)
    assert float(xs[-1]) == pytest.approx(150 / 200, abs=0.01)
    none = Picture(picture.image, picture.fine[:0], picture.shown)
    assert fine_map_of(none, Focus(0, 0, 9, 9)).shape == (0, VIEW // 2, VIEW // 2)
