"""The pictures of corrected groups on the pages."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from backend.ui.pictures import _parts, _small
from tests.unit.learning.annotated import box, region, results
from tests.unit.ui.school_pages import AUTH, URL, answered


def test_a_corrected_group_is_a_picture(client, school):
    drawn = results(("a", box(10, 10, 30, 40), "lid"))
    answered(school, 11, "base-1", drawn, results(("a", box(5, 10, 30, 40), "<b>lid</b>")))
    answer = client.get(f"{URL}/groups/11.png", headers=AUTH)
    assert answer.mimetype == "image/png"
    picture = Image.open(io.BytesIO(answer.data))
    assert picture.width > picture.height > 400
    again = client.get(f"{URL}/groups/11.png", headers=AUTH)
    assert again.data == answer.data
    assert client.get(f"{URL}/groups/12.png", headers=AUTH).status_code == 404


@pytest.mark.parametrize("letter", ["x", "\u0915\u093e", "\u4e2d\n"])
def test_a_name_as_long_as_a_request_is_drawn_like_a_long_one(client, school, letter):
    """Of two names that differ far behind what is shown, the pictures are the same."""
    mask = box(10, 10, 30, 40)
    for task, count in ((11, 1000), (12, 100_000)):
        left = results(("a", mask, letter * count))
        answered(school, task, "base-1", results(("a", mask, "lid")), left, 890 + task)
    long, longest = (client.get(f"{URL}/groups/{task}.png", headers=AUTH) for task in (11, 12))
    assert long.status_code == longest.status_code == 200
    assert long.data == longest.data


def test_a_picture_is_drawn_small_whatever_it_shows():
    """Masks are not painted in the size of their image, and of very many some are left out."""
    looked_at = []

    def refuse():
        raise AssertionError("a mask was painted in full")

    def runs():
        looked_at.append(1)
        return np.array([[0, 5_000_000]])

    size_hw = (4000, 5000)
    one = replace(region("a", box(1, 1, 2, 2), load=refuse), size_hw=size_hw, load_runs=runs)
    parts = _parts([replace(one) for _ in range(3000)], [size_hw], [(512, 640)])
    assert len(looked_at) == len(parts) == 400
    assert parts[0].mask.shape == (512, 640)
    assert parts[0].mask[:128].all()
    assert not parts[0].mask[128:].any()
    ragged = replace(one, encoding=bytes(3_000_000))
    assert len(_parts([ragged] * 9, [size_hw], [(512, 640)])) == 2
    assert _small(np.zeros((*size_hw, 3), np.uint8)).shape == (512, 640, 3)
    assert _small(np.zeros((3, 16_000, 3), np.uint8)).shape == (1, 640, 3)
