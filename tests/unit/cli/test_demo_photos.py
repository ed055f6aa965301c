"""The user's own photographs: which belong together, and where they are copied to."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.cli.demo_photos import copy_photos, photo_groups
from backend.errors import SettingsError
from tests.unit.cli.photo_files import draw


def photos(folder: Path, *names: str) -> None:
    for name in names:
        draw(folder / name, seed=sum(name.encode()), size=(8, 8))


def names(folder: Path, limit: int) -> list[list[str]]:
    groups, skipped = photo_groups(folder, limit)
    assert skipped == []
    return [[path.name for path in group] for group in groups]


def test_folders_are_groups_and_large_ones_are_divided_by_name(tmp_path: Path) -> None:
    photos(tmp_path, "a/2.jpg", "a/1.JPG", ".hidden/9.png", "c/.x.png")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    photos(tmp_path, *(f"b/{number}.png" for number in range(7)), "d/only.webp")
    assert names(tmp_path, 12) == [
        ["1.JPG", "2.jpg"],
        ["0.png", "1.png", "2.png"],
        ["3.png", "4.png", "5.png", "6.png"],
        ["only.webp"],
    ]
    assert len(names(tmp_path, 2)) == 2


@pytest.mark.parametrize("count", range(1, 14))
def test_every_photograph_is_in_one_group_of_at_most_four(tmp_path: Path, count: int) -> None:
    photos(tmp_path, *(f"{number:02}.jpg" for number in range(count)))
    groups = names(tmp_path, 100)
    assert [name for group in groups for name in group] == [
        f"{number:02}.jpg" for number in range(count)
    ]
    assert all(2 <= len(group) <= 4 for group in groups) or count == 1


def test_copies_lie_below_the_document_root(tmp_path: Path) -> None:
    photos(tmp_path / "mine", "a.jpg", "b.JPEG", "a b/ü.png")
    told: list[int] = []
    groups, _ = photo_groups(tmp_path / "mine", 12)
    files = tmp_path / "files"
    addresses = copy_photos(files, "photos-1", groups, told.append)
    for group, copied in zip(groups, addresses, strict=True):
        for path, address in zip(group, copied, strict=True):
            assert (files / address.partition("?d=")[2]).read_bytes() == path.read_bytes()
    assert told == [1, 2]


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--photos: expected photographs .*found none"):
        photo_groups(tmp_path, 12)
    with pytest.raises(SettingsError, match="--photos: expected a folder"):
        photo_groups(tmp_path / "none", 12)


def test_files_that_cannot_be_shown_are_left_out_with_the_reason(tmp_path: Path) -> None:
    photos(tmp_path, "1.jpg", "2.jpg", "3.jpg", "5.jpg", "6.jpg", "7.jpg")
    (tmp_path / "0.jpg").touch()
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "4.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "8.heic").write_bytes(whole)
    groups, skipped = photo_groups(tmp_path, 12)
    assert [[path.name for path in group] for group in groups] == [
        ["1.jpg", "2.jpg", "3.jpg"],
        ["5.jpg", "6.jpg", "7.jpg"],
    ]
    reasons = {one.name: one.reason for one in skipped}
    assert reasons.keys() == {"0.jpg", "4.jpg", "8.heic"}
    assert "0 bytes" in reasons["0.jpg"]
    assert "damaged" in reasons["4.jpg"]
    for name in ("1.jpg", "2.jpg", "3.jpg", "5.jpg", "6.jpg", "7.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(SettingsError, match="none can be read .*heic: browsers"):
        photo_groups(tmp_path, 12)
