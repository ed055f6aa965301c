"""What is remembered comes back bit for bit, below a ceiling of bytes, and not for ever."""

from __future__ import annotations

import numpy as np

from backend.serving.caches import BoundedCache, OpenedGroups
from backend.types import Task
from calico_model.types import ImageGroup

GROUP = ImageGroup((np.zeros((10, 10, 3), np.uint8),), ("a",))  # 300 bytes


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


def test_a_group_that_is_too_old_makes_room_for_others():
    now = 0.0
    opened = OpenedGroups(
        2 * sum(image.nbytes for image in GROUP.images), oldest_s=5, clock=lambda: now
    )
    opened.put(task(1), GROUP)
    now = 6.0
    opened.put(task(2), GROUP)
    assert opened.get(task(1)) is None
    opened.put(task(3), GROUP)
    assert opened.get(task(2)) is GROUP
