from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from backend.cli.demo import Demo
from backend.cli.demo_project import IMAGES, SIZE_PX, draw_groups
from backend.errors import BackendError


def test_groups_have_two_to_four_images_of_one_size(tmp_path: Path) -> None:
    drawn: list[int] = []

    groups = draw_groups(tmp_path, 4, drawn.append)

    assert [len(images) for images in groups] == [2, 3, 4, 2]
    assert drawn == [1, 2, 3, 4]
    for url in sum(groups, []):
        prefix, _, name = url.partition("?d=")
        assert prefix == "/data/local-files/"
        assert name.startswith(f"{IMAGES}/")
        with Image.open(tmp_path / name) as image:
            assert (image.size, image.mode) == ((SIZE_PX, SIZE_PX), "RGB")


def test_groups_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        draw_groups(tmp_path / name, 2, lambda done: None)

    first, second = (sorted((tmp_path / name / IMAGES).iterdir()) for name in ("first", "second"))

    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_stopping_what_never_ran_is_harmless(tmp_path: Path) -> None:
    assert not Demo(tmp_path / "demo", 1, weights=None).stop()


def test_there_is_no_project_before_the_first_start(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no sample project yet"):
        _ = Demo(tmp_path, 1, weights=None).project_id


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{")

    with pytest.raises(BackendError, match=r"demo\.json"):
        Demo(tmp_path, 1, weights=None)
