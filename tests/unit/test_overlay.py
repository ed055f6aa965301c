"""Overlays a person can read: colours, contours, names, any size."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_model import overlay
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind

COMMON_OBJECT, COMMON_PART, UNIQUE_PART = RegionKind


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[0:height, 0:width]
    distance = (rows - y * height) ** 2 + (columns - x * width) ** 2
    return distance <= (radius * min(height, width)) ** 2


def grey_group(*sizes: tuple[int, int]) -> ImageGroup:
    images = tuple(np.full((*size, 3), 128, np.uint8) for size in sizes)
    return ImageGroup(images, tuple(f"i{k}" for k in range(len(sizes))))


def region(
    image: int, kind: RegionKind, label: str, mask: np.ndarray, thing: str | None = None
) -> PartMask:
    return PartMask(image, kind, label, mask, part_id=thing)


def _shared_area(one: overlay.Rect, other: overlay.Rect) -> int:
    across = min(one[2], other[2]) - max(one[0], other[0]) + 1
    down = min(one[3], other[3]) - max(one[1], other[1]) + 1
    return max(0, across) * max(0, down)


class CountingFont:
    """Ten pixels a character; counts the characters it was asked to measure."""

    def __init__(self) -> None:
        self.measured = 0

    def getlength(self, text: str) -> float:
        self.measured += len(text)
        return 10.0 * len(text)


def edge_pixels(picture: np.ndarray) -> int:
    """Pixels that are neither ground nor plain fill: the contour's own."""
    colours = picture.reshape(-1, 3).astype(np.int64) @ (1 << 16, 1 << 8, 1)
    _, counts = np.unique(colours, return_counts=True)
    return int(counts.sum() - np.sort(counts)[-2:].sum())


def test_same_part_has_the_same_colour_in_every_image() -> None:
    masks = disc(300, 400, 0.5, 0.3, 0.2), disc(200, 500, 0.5, 0.7, 0.3)
    parts = [region(k, COMMON_PART, "leg", m, "p0") for k, m in enumerate(masks)]
    parts.append(region(0, COMMON_PART, "seat", disc(300, 400, 0.5, 0.8, 0.1), "p1"))
    first, second = overlay.draw_overlay(grey_group((300, 400), (200, 500)), parts, min_side=1)
    leg = first[180, 100].tolist()  # inside the first disc, clear of its name
    assert leg == second[130, 320].tolist()
    assert leg != [128, 128, 128]
    assert first[150, 300].tolist() != leg


def test_namesakes_without_id_share_a_colour_within_their_kind() -> None:
    mask = disc(50, 50, 0.5, 0.5, 0.2)
    parts = [region(0, UNIQUE_PART, "arm", mask), region(1, UNIQUE_PART, "arm", mask)]
    parts.append(region(1, COMMON_PART, "arm", mask))
    assert len(overlay.colours_of(parts)) == 2


def test_many_things_get_different_colours() -> None:
    mask = np.ones((2, 2), dtype=bool)
    parts = [region(0, COMMON_PART, f"part {k}", mask) for k in range(40)]
    assert len(set(overlay.colours_of(parts).values())) == 40


def test_contours_tell_the_kinds_apart() -> None:
    mask = disc(600, 600, 0.5, 0.5, 0.4)
    ink = {}
    for kind in RegionKind:
        (picture,) = overlay.draw_overlay(grey_group((600, 600)), [region(0, kind, "", mask)])
        ink[kind] = edge_pixels(picture)
    assert ink[COMMON_OBJECT] > 1.3 * ink[COMMON_PART]
    assert ink[UNIQUE_PART] < 0.85 * ink[COMMON_PART]


def test_ground_outside_regions_is_untouched() -> None:
    group = grey_group((700, 700))
    (picture,) = overlay.draw_overlay(
        group, [region(0, COMMON_PART, "x", disc(700, 700, 0.3, 0.3, 0.1))]
    )
    assert (picture[400:] == 128).all()
    assert not (picture[:400] == 128).all()
    assert (group.images[0] == 128).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (64, 48), (256, 256), (1500, 2000)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    parts = [
        region(0, kind, "a rather long name of a part", disc(*size, 0.5, 0.5, 0.4))
        for kind in RegionKind
    ]
    parts.append(region(0, COMMON_PART, "nothing", np.zeros(size, dtype=bool)))
    (picture,) = overlay.draw_overlay(grey_group(size), parts)
    assert picture.dtype == np.uint8
    assert max(picture.shape[:2]) >= overlay.MIN_SIDE
    assert picture.shape[0] * size[1] == picture.shape[1] * size[0]


def test_boxes_avoid_each_other_while_there_is_room() -> None:
    taken: list[overlay.Rect] = []
    for _ in range(12):
        taken.append(overlay._place((320, 240), (120, 24), (640, 480), taken))
    assert all(_shared_area(a, b) == 0 for a, b in combinations(taken, 2))
    assert taken[0] == (260, 228, 380, 252)


def test_boxes_stay_inside_the_picture() -> None:
    for heart in [(0, 0), (639, 0), (0, 479), (639, 479)]:
        left, top, right, bottom = overlay._place(heart, (120, 24), (640, 480), [])
        assert left >= 0
        assert top >= 0
        assert right < 640
        assert bottom < 480


def test_the_deepest_pixel_lies_inside_a_ring() -> None:
    ring = disc(101, 101, 0.5, 0.5, 0.45) & ~disc(101, 101, 0.5, 0.5, 0.25)
    heart = overlay._deepest_pixel(ring)
    assert heart is not None
    assert ring[heart[1], heart[0]]


def test_object_names_sit_on_top() -> None:
    assert overlay._top(disc(100, 100, 0.6, 0.3, 0.2)) == (30, 40)
    assert overlay._top(np.zeros((4, 4), dtype=bool)) is None


def test_prediction_and_plain_regions_draw_alike() -> None:
    group = grey_group((80, 80))
    parts = (region(0, COMMON_PART, "leg", disc(80, 80, 0.5, 0.5, 0.3)),)
    from_prediction = overlay.draw_overlay(group, GroupPrediction(parts, "v"))
    assert np.array_equal(from_prediction[0], overlay.draw_overlay(group, parts)[0])


def test_contact_sheet_holds_every_picture_at_one_height() -> None:
    red = np.zeros((50, 100, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    blue = np.zeros((200, 100, 3), np.uint8) + np.array([0, 0, 255], np.uint8)
    sheet = overlay.contact_sheet([[red, blue], [blue]], titles=["first", "second " * 90])
    counts = {
        name: int((sheet == np.array(colour)).all(axis=2).sum())
        for name, colour in {"red": [255, 0, 0], "blue": [0, 0, 255]}.items()
    }
    assert counts["red"] == 480 * 960
    assert counts["blue"] == 2 * 480 * 240


@pytest.mark.parametrize(
    "one", ["x", "x ", ".", "\n", "e\u0301", "\U0001f600", "\u0915\u093e", "\u202e"]
)
def test_a_name_of_any_length_is_cut_with_bounded_work(one: str) -> None:
    font = CountingFont()
    short, _ = overlay._shorten(one * 100_000, font, 500)
    assert font.measured < 10_000
    assert len(short) <= 50
    assert "\n" not in short


@pytest.mark.parametrize(
    ("width", "shown"), [(60, "handle"), (59, "ha..."), (50, "ha..."), (5, "h")]
)
def test_a_name_is_cut_to_its_width(width: int, shown: str) -> None:
    assert overlay._shorten("handle", CountingFont(), width)[0] == shown


def test_a_name_keeps_what_fits_whatever_the_width() -> None:
    text = "".join(chr(ord("a") + k % 26) for k in range(280))
    for width in range(40, 2900, 70):
        short, _ = overlay._shorten(text, CountingFont(), width)
        assert len(short) * 10 <= width
        assert short == text or len(short) * 10 > width - 10


def test_of_very_many_regions_the_largest_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    shorten = overlay._shorten

    def count(text: str, font: object, width: int) -> object:
        written.append(text)
        return shorten(text, font, width)

    monkeypatch.setattr(overlay, "_shorten", count)
    rows, columns = np.ogrid[0:64, 0:64]
    masks = [(rows < 1 + k // 64) & (columns <= k % 64) for k in range(300)]
    parts = [region(0, COMMON_PART, f"{k}", mask) for k, mask in enumerate(masks)]
    overlay.draw_overlay(grey_group((64, 64)), parts, min_side=64)
    assert len(written) <= 100
    smallest = min(int(masks[int(name)].sum()) for name in written)
    assert sum(int(mask.sum()) > smallest for mask in masks) < 100


@given(
    st.lists(st.tuples(*[st.integers(0, 600)] * 2, st.integers(1, 90)), max_size=12),
    st.tuples(st.integers(0, 639), st.integers(0, 479)),
)
def test_a_box_hides_least_and_is_the_nearest_of_those(
    corners: list[tuple[int, int, int]], heart: tuple[int, int]
) -> None:
    taken = [(x, y, x + side, y + side) for x, y, side in corners]
    left, top, right, bottom = overlay._place(heart, (120, 24), (640, 480), taken)
    assert (right - left, bottom - top) == (120, 24)
    hidden = sum(_shared_area((left, top, right, bottom), other) for other in taken)
    for dx, dy in overlay._spiral().tolist():
        x = max(0, min(heart[0] - 60 + round(dx * 24), 640 - 121))
        y = max(0, min(heart[1] - 12 + round(dy * 24), 480 - 25))
        if (x, y) == (left, top):
            break
        assert sum(_shared_area((x, y, x + 120, y + 24), other) for other in taken) > hidden
    else:
        pytest.fail("not a place of the spiral")
