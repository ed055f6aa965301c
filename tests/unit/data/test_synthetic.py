"""Drawn groups: repeatable, exact, and within their split."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from calico_model.data import synthetic
from calico_model.data.catalogue import (
    HELD_OUT_CATEGORIES,
    HELD_OUT_PARTS,
    PART_NAMES,
    TRAINED_CATEGORIES,
    WITHHELD_PAIRS,
    category,
    parts_of,
)
from calico_model.data.comparison import MIN_OBJECT_SHARE, compare
from calico_model.data.scene import Scene, compose_scene, draw_instance
from calico_model.data.styles import STYLES, TRAINED_STYLES, Style
from calico_model.data.synthetic import (
    SceneSplit,
    Stream,
    draw_group,
    draw_scene,
    group_rng,
    labeled_group,
    write_groups,
)
from calico_model.errors import InvalidConfigError
from calico_model.types import RegionKind

_SIZE = 64


def _groups(split: SceneSplit, count: int = 60) -> Iterator[tuple[Scene, ...]]:
    for index in range(count):
        rng = group_rng(Stream.EVALUATION, 0, index)
        yield draw_group(rng, split=split, group_size=1 + index % 4, size_px=_SIZE)


def _names(scene: Scene) -> set[str]:
    return {PART_NAMES[code - 1] for code in np.unique(scene.part_map) if code}


def test_same_seed_draws_the_same_group() -> None:
    first, second = (
        draw_group(group_rng(Stream.TRAINING, 7, 3), group_size=3, size_px=_SIZE) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert (a.image == b.image).all()
        assert (a.part_map == b.part_map).all()
        assert (a.object_map == b.object_map).all()
        assert (a.categories, a.style) == (b.categories, b.style)


def test_streams_seeds_and_indices_draw_different_pictures() -> None:
    keys = [(stream, seed, index) for stream in Stream for seed in (0, 1) for index in (0, 1)]
    drawn = {draw_scene(group_rng(*key), size_px=_SIZE).image.tobytes() for key in keys}
    assert len(drawn) == len(keys)


@pytest.mark.parametrize("split", SceneSplit)
def test_maps_are_consistent(split: SceneSplit) -> None:
    for group in _groups(split, 20):
        for scene in group:
            areas = np.bincount(scene.object_map.ravel(), minlength=2)
            assert scene.image.shape == (_SIZE, _SIZE, 3)
            assert scene.image.dtype == scene.object_map.dtype == scene.part_map.dtype == np.uint8
            assert scene.object_map.max() <= len(scene.categories)
            assert ((scene.part_map > 0) == (scene.object_map > 0)).all()
            assert areas[1] > 0
            for number, name in enumerate(scene.categories, start=1):
                codes = np.unique(scene.part_map[scene.object_map == number])
                assert {PART_NAMES[code - 1] for code in codes} <= set(parts_of(name))


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_style_changes_the_picture_but_not_the_maps(style: Style) -> None:
    lone = draw_instance(np.random.default_rng(1), "horse", frozenset({"mane"}))
    plain, styled = (
        compose_scene(np.random.default_rng(5), lone, (), style=each, size_px=_SIZE)
        for each in (TRAINED_STYLES[0], style)
    )
    assert (plain.part_map == styled.part_map).all()
    assert (plain.image == styled.image).all() == (style is TRAINED_STYLES[0])
    assert np.unique(styled.image).size >= 4


def test_seen_holds_nothing_that_is_held_out() -> None:
    trained_styles = {style.name for style in TRAINED_STYLES}
    for group in _groups(SceneSplit.SEEN, 120):
        mains = {scene.categories[0] for scene in group}
        assert not any(pair <= mains for pair in WITHHELD_PAIRS)
        for scene in group:
            assert set(scene.categories) <= set(TRAINED_CATEGORIES)
            assert scene.style in trained_styles
            assert not _names(scene) & set(HELD_OUT_PARTS)
            withheld = category(scene.categories[0]).withheld
            main = {PART_NAMES[c - 1] for c in np.unique(scene.part_map[scene.object_map == 1])}
            assert not withheld or not withheld <= main


def test_unseen_style_and_category_show_what_was_held_out() -> None:
    for group in _groups(SceneSplit.UNSEEN_STYLE, 20):
        assert {scene.style for scene in group} == {"blueprint"}
    shown: set[str] = set()
    for group in _groups(SceneSplit.UNSEEN_CATEGORY, 40):
        assert {scene.categories[0] for scene in group} <= set(HELD_OUT_CATEGORIES)
        assert all(set(scene.categories[1:]) <= set(TRAINED_CATEGORIES) for scene in group)
        shown |= {name for scene in group for name in _names(scene)}
    assert shown >= set(HELD_OUT_PARTS)


def test_unseen_combination_shows_withheld_pairs_or_variants() -> None:
    kinds = set()
    for group in _groups(SceneSplit.UNSEEN_COMBINATION):
        mains = {scene.categories[0] for scene in group}
        kinds.add(len(mains))
        assert frozenset(mains) in WITHHELD_PAIRS or category(mains.pop()).withheld
    assert kinds == {1, 2}


def test_half_of_the_pairs_share_the_category_and_the_rest_share_parts() -> None:
    groups = [
        draw_group(group_rng(Stream.EVALUATION, 1, index), size_px=_SIZE) for index in range(200)
    ]
    same = [len({scene.categories[0] for scene in group}) == 1 for group in groups]
    found = [compare(group) for group in groups]
    mixed = [each for each, is_same in zip(found, same, strict=True) if not is_same]
    assert 0.4 < np.mean(same) < 0.65
    assert np.mean([bool(each.common_parts) for each in mixed]) > 0.9
    assert 0.2 < np.mean([bool(each.common_objects) for each in mixed]) < 0.5


@pytest.mark.parametrize("index", [897, 1249])  # the first try shows a small, thin main object
def test_main_object_shows_more_than_any_other(index: int) -> None:
    for scene in draw_group(group_rng(Stream.EVALUATION, 0, index), size_px=_SIZE):
        areas = np.bincount(scene.object_map.ravel())[1:]
        assert len(areas) > 1
        assert areas.argmax() == 0


def test_shared_secondary_object_shows_in_every_picture() -> None:
    seen = 0
    for group in _groups(SceneSplit.SEEN, 100):
        seconds = {scene.categories[1] if len(scene.categories) > 1 else None for scene in group}
        is_mixed = len({scene.categories[0] for scene in group}) > 1
        if is_mixed and len(group) > 2 and len(seconds) == 1 and None not in seconds:
            seen += 1
            assert seconds <= set(compare(group).common_objects)
            assert all(np.mean(s.object_map == 2) >= MIN_OBJECT_SHARE for s in group)
    assert seen >= 3


def test_labeled_group_masks_come_from_the_maps() -> None:
    scenes = draw_group(group_rng(Stream.EVALUATION, 2, 4), group_size=3, size_px=_SIZE)
    truth = labeled_group(scenes, ("a", "b", "c"))
    found = compare(scenes)
    assert truth.group.ids == ("a", "b", "c")
    assert [o.label for o in truth.objects] == list(found.mains)
    common = truth.of_kind(RegionKind.COMMON_PART)
    assert [p.label for p in common] == [n for n in found.common_parts for _ in scenes]
    for part in common + truth.of_kind(RegionKind.UNIQUE_PART):
        scene = scenes[part.image_index]
        assert part.object_label == scene.categories[0]
        assert (part.mask <= truth.objects[part.image_index].mask).all()
        assert set(np.unique(scene.part_map[part.mask])) == {PART_NAMES.index(part.label) + 1}


def test_written_set_does_not_depend_on_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        write_groups(
            folder, groups=5, seed=4, split=SceneSplit.UNSEEN_STYLE, size_px=_SIZE, workers=workers
        )
    names = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.*"))
    same, different, missing = filecmp.cmpfiles(
        tmp_path / "1", tmp_path / "2", [str(name) for name in names], shallow=False
    )
    assert (len(same), different, missing) == (12, [], [])


def test_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "_write_documents", fail)
    counted: list[int] = []
    with pytest.raises(OSError, match="disk full"):
        write_groups(
            tmp_path / "set",
            groups=2,
            seed=0,
            split=SceneSplit.SEEN,
            size_px=_SIZE,
            on_progress=counted.append,
        )
    assert counted == [1, 2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("groups", {"groups": 0}),
        ("seed", {"seed": -1}),
        ("size_px", {"size_px": 8}),
        ("workers", {"workers": 0}),
        ("group_sizes", {"group_sizes": (2, 9)}),
        ("group_sizes", {"group_sizes": (3, 2)}),
    ],
)
def test_bad_plan_is_refused(tmp_path: Path, field: str, change: dict[str, object]) -> None:
    plan: dict[str, object] = {"groups": 1, "seed": 0, "split": SceneSplit.SEEN} | change
    with pytest.raises(InvalidConfigError, match=rf"^{field}: expected"):
        write_groups(tmp_path / "set", **plan)  # type: ignore[arg-type]


def test_full_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InvalidConfigError, match="^folder: expected a new or empty folder"):
        write_groups(tmp_path, groups=1, seed=0, split=SceneSplit.SEEN)


def test_bad_group_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidConfigError, match="^group_size: expected 1 to 8, got 9"):
        draw_group(rng, group_size=9)
    with pytest.raises(InvalidConfigError, match="^size_px: expected at least 32, got 31"):
        draw_scene(rng, size_px=31)
