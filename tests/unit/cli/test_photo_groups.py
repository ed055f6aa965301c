"""Photographs become groups by folder, by name and by time, and never twice."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.cli.contact_sheet import write_sheets
from backend.cli.import_plan import Plan, Way, folders_are_groups
from backend.cli.photo_cache import FILE, PhotoCache
from backend.cli.photo_folder import list_photographs
from backend.cli.photo_groups import arrange, set_duplicates_aside
from backend.cli.photo_survey import Photograph, survey
from backend.errors import SettingsError
from tests.unit.cli.photo_files import at, draw


def looked_at(folder, tmp_path):
    with PhotoCache(tmp_path / "data") as cache:
        return survey(list_photographs(folder), cache, with_vectors=False, tell=lambda _: None)


def grouped(folder, tmp_path, plan):
    groups = arrange(looked_at(folder, tmp_path).photographs, plan)
    return [[photograph.name for photograph in group] for group in groups]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "photos"


def test_only_photographs_are_listed_as_people_count(folder):
    for name in ("b10.JPG", "b2.jpeg", "deep/er/c.PNG", "d.webp", "._b2.jpeg", ".hidden/e.jpg"):
        draw(folder / name, 1)
    (folder / "x.HEIC").write_bytes(b"?")
    (folder / "notes.txt").write_text("no picture")
    listing = list_photographs(folder)
    assert listing.names == ("b2.jpeg", "b10.JPG", "d.webp", "deep/er/c.PNG")
    assert [one.name for one in listing.skipped] == ["x.HEIC"]
    assert "convert it" in listing.skipped[0].reason


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"FOLDER: expected photographs .* found none"):
        list_photographs(tmp_path)


def test_what_cannot_be_opened_or_named_is_skipped(folder):
    draw(folder / "a.jpg", 1)
    os.mkfifo(folder / "pipe.jpg")  # reading it would never end
    os.rename(draw(folder / "b.jpg", 2), os.fsencode(folder) + b"/caf\xe9.jpg")  # noqa: PTH104
    (folder / "self.jpg").symlink_to("self.jpg")
    listing = list_photographs(folder)
    assert listing.names == ("a.jpg", "self.jpg")
    assert [(one.name, one.reason) for one in listing.skipped] == [
        ("caf\ufffd.jpg", "its path is not UTF-8; rename it"),
        ("pipe.jpg", "no plain file"),
    ]


def test_a_folder_whose_path_is_not_utf8_is_refused(folder):
    draw(folder / "a.jpg", 1)
    os.rename(folder, os.fsencode(folder) + b"\xe9")  # noqa: PTH104
    with pytest.raises(SettingsError, match="FOLDER: expected a path in UTF-8, got"):
        list_photographs(Path(os.fsdecode(os.fsencode(folder) + b"\xe9")))


def test_folders_are_groups_only_where_each_could_be_one():
    assert folders_are_groups(["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"])
    assert not folders_are_groups(["a/1.jpg", "a/2.jpg"])
    assert not folders_are_groups(["a/1.jpg", "a/2.jpg", "b/1.jpg"])
    assert not folders_are_groups([f"{name}/{n}.jpg" for name in "ab" for n in range(9)])


def test_by_folder(folder, tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg"):
        draw(folder / name, hash(name) % 2**31)
    plan = Plan(Way.FOLDER, (1, 8))
    assert grouped(folder, tmp_path, plan) == [
        ["a/1.jpg", "a/2.jpg"],
        ["b/1.jpg", "b/2.jpg", "b/3.jpg"],
    ]


@pytest.mark.parametrize(
    "names",
    [
        [["chair_01_a", "chair_01_b"], ["chair_02_a", "chair_02_b"]],
        [["pan (1)", "pan (2)"], ["pot (1)", "pot (2)"]],
        [["bus-front", "bus-left"], ["car-front", "car-rear"]],
        [["17a", "17b", "17c"], ["18a"]],
        [["IMG_2041"], ["IMG_2042"]],  # a camera's counter says nothing
    ],
)
def test_by_name(folder, tmp_path, names):
    for seed, name in enumerate(name for group in names for name in group):
        draw(folder / f"{name}.jpg", seed)
    found = grouped(folder, tmp_path, Plan(Way.NAME, (1, 8)))
    assert found == [[f"{name}.jpg" for name in group] for group in names]


def test_by_a_pattern_of_names(folder, tmp_path):
    for seed, name in enumerate(("x-7-1", "y-7-2", "x-8-1", "odd", "strange")):
        draw(folder / f"{name}.png", seed)
    plan = Plan(Way.NAME, (1, 8), re.compile(r"-(\d)-"))
    assert sorted(grouped(folder, tmp_path, plan)) == [
        ["odd.png"],
        ["strange.png"],
        ["x-7-1.png", "y-7-2.png"],
        ["x-8-1.png"],
    ]
    with pytest.raises(SettingsError, match="--name-pattern: .* fits none"):
        grouped(folder, tmp_path, Plan(Way.NAME, (1, 8), re.compile("zebra")))


def test_by_time_a_pause_begins_a_new_group(folder, tmp_path):
    moments = [at(0), at(0, 20), at(1), at(30), at(30, 5), at(50)]
    for number, moment in enumerate(moments):
        draw(folder / f"{9 - number}.jpg", number, taken=moment)  # names run backwards
    plan = Plan(Way.TIME, (1, 8), gap=timedelta(minutes=2))
    assert grouped(folder, tmp_path, plan) == [
        ["9.jpg", "8.jpg", "7.jpg"],
        ["6.jpg", "5.jpg"],
        ["4.jpg"],
    ]


def test_by_time_needs_times(folder, tmp_path):
    draw(folder / "a.jpg", 1)
    with pytest.raises(SettingsError, match=r"--group-by: time: .*\(EXIF\), found none"):
        grouped(folder, tmp_path, Plan(Way.TIME, (1, 8)))


def test_what_is_too_much_for_one_group_is_divided_evenly(folder, tmp_path):
    for number in range(10):
        draw(folder / f"{number}.jpg", number, taken=at(number))
    plan = Plan(Way.TIME, (1, 4), gap=timedelta(minutes=2))
    assert [len(group) for group in grouped(folder, tmp_path, plan)] == [3, 3, 4]


def test_a_large_folder_is_divided_by_what_it_shows(folder, tmp_path):
    for number in range(4):
        draw(folder / f"{number}.jpg", number)
    plan = Plan(Way.FOLDER, (2, 2))
    assert plan.needs_vectors(["0.jpg", "1.jpg", "2.jpg"])
    assert not plan.needs_vectors(["0.jpg", "1.jpg"])
    sides = [np.array((1.0, 0.1 * n if n < 2 else -9.0 - n), np.float32) for n in range(4)]
    photographs = [
        Photograph(one.name, one.facts, side)
        for one, side in zip(looked_at(folder, tmp_path).photographs, sides, strict=True)
    ]
    groups = arrange(photographs, plan)
    assert [[one.name for one in group] for group in groups] == [
        ["0.jpg", "1.jpg"],
        ["2.jpg", "3.jpg"],
    ]


def test_copies_are_set_aside_and_the_largest_stays(folder, tmp_path):
    draw(folder / "a.jpg", 1)
    draw(folder / "b.png", 1, size=(128, 96))
    draw(folder / "c.jpg", 2)
    (folder / "d.jpg").write_bytes((folder / "c.jpg").read_bytes())
    distinct, repeated = set_duplicates_aside(looked_at(folder, tmp_path).photographs)
    assert [one.name for one in distinct] == ["b.png", "c.jpg"]
    assert [(one.name, other.name) for one, other in repeated] == [
        ("d.jpg", "c.jpg"),
        ("a.jpg", "b.png"),
    ]


def test_a_survey_knows_size_time_and_what_is_broken(folder, tmp_path):
    draw(folder / "turned.jpg", 3, taken=at(7), turn=6)
    (folder / "cut.jpg").write_bytes(draw(folder / "whole.jpg", 4).read_bytes()[:300])
    (folder / "empty.png").touch()
    seen = looked_at(folder, tmp_path)
    turned, _ = seen.photographs
    assert turned.facts.size_hw == (64, 48)
    assert turned.facts.taken == at(7)
    assert {one.name: one.reason.split(" ")[0] for one in seen.broken} == {
        "cut.jpg": "truncated",
        "empty.png": "expected",
    }


def test_a_second_survey_reads_only_what_changed(folder, tmp_path):
    for number in range(3):
        draw(folder / f"{number}.jpg", number)
    assert looked_at(folder, tmp_path).fresh == 3
    draw(folder / "1.jpg", 9, size=(80, 60))
    seen = looked_at(folder, tmp_path)
    assert seen.fresh == 1
    assert seen.photographs[1].facts.size_hw == (60, 80)


def test_a_contact_sheet_is_as_wide_as_its_groups(folder, tmp_path):
    for seed in range(4):
        draw(folder / f"{seed // 2}" / f"{seed}.jpg", seed)
    groups = arrange(looked_at(folder, tmp_path).photographs, Plan(Way.FOLDER, (1, 8)))
    told: list[int] = []
    (pair,) = write_sheets(tmp_path / "pair.png", folder, groups[:1], told.append)
    (both,) = write_sheets(tmp_path / "both.png", folder, groups, told.append)
    with Image.open(pair) as one, Image.open(both) as two:
        assert one.height == two.height
        assert two.width == pytest.approx(2 * one.width, abs=20)
    assert told == [1, 2]


def fill(place):
    """Writes more than the file of known photographs may hold."""
    with PhotoCache(place) as cache:
        (pages,) = cache._file.execute("PRAGMA page_count").fetchone()
        cache._file.execute(f"PRAGMA max_page_count = {pages + 2}")
        for number in range(99):
            cache.keep_vector(f"{number:064}", "encoder", np.zeros(1280, np.float32))


def test_a_full_disk_under_the_known_photographs_is_said_and_forgets_none(folder, tmp_path):
    for number in range(3):
        draw(folder / f"{number}.jpg", number)
    assert looked_at(folder, tmp_path).fresh == 3
    told = f"--data-dir: {tmp_path / 'data' / FILE} cannot be written .*full"
    with pytest.raises(SettingsError, match=told):
        fill(tmp_path / "data")
    assert looked_at(folder, tmp_path).fresh == 0
