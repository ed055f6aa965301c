"""What is remembered comes back bit for bit, below a ceiling of bytes, and not for ever."""

from __future__ import annotations

import numpy as np

from backend.rle import runs_of
from backend.serving.caches import BoundedCache, OpenedGroups, RecentPredictions
from backend.types import Task
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind

GROUP = ImageGroup((np.zeros((10, 10, 3), np.uint8),), ("a",))  # 300 bytes


def prediction(seed, *, size_hw=(33, 17)):
    rng = np.random.default_rng(seed)
    masks = [rng.random(size_hw) < 0.5 for _ in range(3)]
    parts = tuple(
        PartMask(i, RegionKind.COMMON_PART, f"part {i}", mask, "cup", f"p{i}", 0.5)
        for i, mask in enumerate(masks)
    )
    return GroupPrediction(parts=parts, version="v", answers={"q": "a"})


def test_masks_and_names_come_back():
    recent, given = RecentPredictions(max_bytes=10_000), prediction(0)
    recent.put("a", given)
    found = recent.get("a")
    assert found is not None
    assert found.answers == given.answers
    for ours, theirs in zip(found.parts, given.parts, strict=True):
        assert np.array_equal(ours.mask, theirs.mask)
        assert ours.mask.dtype == np.bool_
        assert (ours.label, ours.part_id, ours.score) == (theirs.label, theirs.part_id, 0.5)


def test_the_least_recently_used_is_forgotten_first():
    one = max(
        sum(runs_of(part.mask).nbytes for part in prediction(seed).parts) for seed in range(3)
    )
    recent = RecentPredictions(max_bytes=2 * one)
    recent.put("a", prediction(0))
    recent.put("b", prediction(1))
    recent.put("b", prediction(1))
    assert recent.get("a") is not None
    recent.put("c", prediction(2))
    assert recent.get("b") is None
    assert recent.get("a") is not None
    assert recent.get("c") is not None


def test_what_is_too_large_is_not_kept():
    recent = RecentPredictions(max_bytes=10)
    recent.put("a", prediction(0))
    assert recent.get("a") is None
    assert recent.get("never") is None


def test_a_value_larger_than_the_cache_leaves_it_empty():
    cache = BoundedCache(10, len)
    cache.put("a", "four")
    cache.put("b", "more than ten")
    assert (len(cache), cache.used_bytes) == (0, 0)
    cache.put("b", "fits")
    cache.put("b", "no longer fits")
    assert cache.get("b") is None


def test_values_beyond_the_count_are_forgotten_the_least_recently_used_first():
    cache = BoundedCache(100, len, max_count=2)
    cache.put("a", "1")
    cache.put("b", "22")
    assert cache.get("a") == "1"
    cache.put("c", "333")
    assert [key in cache for key in "abc"] == [True, False, True]
    assert cache.used_bytes == 4


def test_a_replaced_value_gives_its_bytes_back():
    cache = BoundedCache(6, len)
    cache.put("a", "11")
    cache.put("b", "22")
    cache.put("c", "33")
    cache.put("a", "111")
    assert [key in cache for key in "abc"] == [True, False, True]


def task(number):
    return Task(id=number, project_id=1, image_urls=(f"/data/{number}.png",))


def test_the_oldest_go_when_the_ceiling_is_reached():
    opened = OpenedGroups(600)
    for number in (1, 2):
        opened.put(task(number), GROUP)
    assert opened.get(task(1)) is GROUP
    opened.put(task(3), GROUP)
    assert opened.get(task(2)) is None
    assert opened.get(task(1)) is opened.get(task(3)) is GROUP
    opened.put(task(3), GROUP)
    assert opened.get(task(1)) is GROUP


def test_a_group_is_fetched_anew_after_a_while():
    now = 0.0
    opened = OpenedGroups(600, oldest_s=5, clock=lambda: now)
    opened.put(task(1), GROUP)
    now = 6.0
    assert opened.get(task(1)) is None
    opened.put(task(1), GROUP)
    assert opened.get(task(1)) is GROUP
