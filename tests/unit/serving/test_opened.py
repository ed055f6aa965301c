"""Images of opened tasks are kept below a ceiling, and not for ever."""

from __future__ import annotations

import numpy as np

from backend.serving.opened import OpenedGroups
from backend.types import Task
from calico_model.types import ImageGroup

GROUP = ImageGroup((np.zeros((10, 10, 3), np.uint8),), ("a",))  # 300 bytes


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
