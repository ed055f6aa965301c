"""Titles: asked for in the background, kept, and never waited for."""

from __future__ import annotations

import threading

import pytest

from backend.errors import LabelStudioError
from backend.ui.titles import ProjectTitles


class Studio:
    """Knows titles; counts questions; answers none while `lock` is held."""

    def __init__(self):
        self.asked, self.is_away = [], False
        self.lock = threading.Lock()
        self.now_s = 100.0

    def title(self, project_id):
        with self.lock:
            self.asked.append(project_id)
            if self.is_away:
                raise LabelStudioError("away")
            return f" Project of {project_id} " if project_id < 50 else "x" * 9000


@pytest.fixture
def studio():
    return Studio()


@pytest.fixture
def titles(studio):
    return ProjectTitles(studio.title, clock=lambda: studio.now_s)


def settle(titles):
    """Waits until nothing is asked for any more."""
    thread = titles._thread
    if thread is not None:
        thread.join()


def test_a_title_is_known_once_label_studio_has_answered(titles, studio):
    with studio.lock:  # Label Studio hangs: the page does not
        assert titles.of(1) is None
        assert titles.of(1) is None
    settle(titles)
    assert titles.of(1) == "Project of 1"
    assert studio.asked == [1]


def test_a_title_is_asked_for_again_after_minutes_and_shown_meanwhile(titles, studio):
    titles.of(1)
    settle(titles)
    studio.now_s += 299
    assert titles.of(1) == "Project of 1"
    settle(titles)
    assert studio.asked == [1]
    studio.now_s += 2
    with studio.lock:
        assert titles.of(1) == "Project of 1"
    settle(titles)
    assert studio.asked == [1, 1]


def test_label_studio_that_is_away_is_left_alone_for_a_while(titles, studio):
    studio.is_away = True
    with studio.lock:
        for project_id in (1, 2, 3):
            assert titles.of(project_id) is None
    settle(titles)
    assert studio.asked == [1]  # the others were not asked for
    titles.of(2)
    settle(titles)
    assert studio.asked == [1]
    studio.is_away, studio.now_s = False, studio.now_s + 31
    titles.of(2)
    settle(titles)
    assert titles.of(2) == "Project of 2"


def test_a_title_as_long_as_a_book_is_cut_and_few_questions_wait(titles, studio):
    with studio.lock:
        for project_id in range(50, 500):
            titles.of(project_id)
    settle(titles)
    assert len(titles.of(50)) == 500
    assert len(studio.asked) <= 101


def test_without_label_studio_there_are_no_titles():
    titles = ProjectTitles()
    assert titles.of(1) is None
    assert titles._thread is None
