"""Clicks teach whom to believe: recorded without waiting, learned from the correction, used."""

from __future__ import annotations

import numpy as np
import pytest

from backend.errors import StoreError
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.source_learner import SourceLearner
from backend.serving.interactive import InteractiveSegmenter
from backend.serving.source_trust import SourceTrustReader
from backend.storage import source_trust
from backend.storage.source_trust import SourceAnswerStore, TrustCache
from backend.storage.store import open_store
from backend.types import Prompt, Task
from calico_model.sources.source import Ability, Encoding, SourceDescription, SourceMask
from calico_model.sources.trust import TrustKey
from calico_model.types import ImageGroup, RegionKind
from calico_model.vocabulary import Vocabulary
from tests.doubles import ModelDouble, refined
from tests.unit.learning.annotated import box, event, results
from tests.unit.serving.test_source_pool import pool

PROJECT = 7
RIGHT, WRONG = box(5, 5, 20, 20), box(22, 30, 38, 58)
OWN = box(0, 45, 10, 60)
VOCABULARY = Vocabulary(("Handle", "Lid"))


class Fixed:
    """A source that always outlines one place; counts its calls."""

    def __init__(self, name, mask):
        self.name, self.mask, self.calls = name, mask, 0

    def describe(self):
        return SourceDescription(self.name, frozenset({Ability.CLICK}), self.name, "MIT", 1)

    def encode(self, image):
        return Encoding(image.shape[:2], None, 1)

    def segment_prompt(self, encoding, prompt):
        self.calls += 1
        return (SourceMask(self.mask, 0.7),)


class Own(ModelDouble):
    version = "v"

    def refine(self, group, image_index, prompt, group_prediction=None):
        return refined(OWN)


class Project:
    """A project with two sources beside the model: the first added one is always wrong."""

    def __init__(self, folder):
        self.store = open_store(f"sqlite:///{folder / 'calico.sqlite3'}", commit_timeout_s=30)
        self.answers = SourceAnswerStore(self.store)
        self.trust = SourceTrustReader(self.answers)
        self.derivation = Derivation(CorrectionRepository(self.store))
        self.learner = SourceLearner(self.store, self.derivation)
        self.wrong, self.right = Fixed("wrong", WRONG), Fixed("right", RIGHT)
        self.segmenter = InteractiveSegmenter(pool(self.wrong, self.right))

    def click(self, task, *prompts):
        """Clicks in a task; returns the suggested mask."""
        group = ImageGroup((np.full((40, 60, 3), task, np.uint8),), (f"task {task}",))
        believed = self.trust.of(Task(task, PROJECT, ("a",)), VOCABULARY)
        made = prompts or (prompt(10, 10),)
        suggested = self.segmenter.suggest(
            group, made, (), Own(), vocabulary=VOCABULARY, trust=believed
        )
        (part,) = suggested.prediction.parts
        return part.mask

    def submit(self, task, mask):
        self.store.record_events([event(task, results(("r", mask, "handle")), task=task)])

    def learn(self):
        self.derivation.derive(PROJECT)
        self.learner.learn(PROJECT)
        self.trust = SourceTrustReader(self.answers)  # as if two seconds had passed


def prompt(x, y, id_="p", label="Handle"):
    return Prompt(id_, 0, (x, y, x, y), True, RegionKind.COMMON_PART, label)


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    yield made
    made.store.close()


def test_after_ten_corrected_groups_the_right_source_is_believed(project):
    for task in range(1, 11):
        assert np.array_equal(project.click(task), WRONG)
        project.submit(task, RIGHT)
    project.learn()
    assert np.array_equal(project.click(11), RIGHT)
    table = project.answers.trust(PROJECT)
    assert table.of("wrong", Ability.CLICK, "handle").is_silent
    assert table.of("calico", Ability.CLICK, "handle").is_silent
    assert table.counts[TrustKey("right", Ability.CLICK, "handle")].kept == 10


def test_what_was_learned_about_one_label_counts_less_for_another(project):
    for task in range(1, 4):
        project.click(task)
        project.submit(task, RIGHT)
    project.learn()
    table = project.answers.trust(PROJECT)
    handle, lid = (table.of("right", Ability.CLICK, name) for name in ("handle", "lid"))
    assert handle.trust > lid.trust > 0.7


def test_a_remembered_click_is_answered_anew_when_trust_has_changed(project):
    assert np.array_equal(project.click(20), WRONG)
    calls = project.wrong.calls
    assert np.array_equal(project.click(20), WRONG)
    assert project.wrong.calls == calls
    for task in range(1, 11):
        project.click(task)
        project.submit(task, RIGHT)
    project.learn()
    assert np.array_equal(project.click(20), RIGHT)


def test_further_clicks_on_a_region_replace_its_first_answer(project):
    project.click(1, prompt(10, 10))
    project.click(1, prompt(10, 10), prompt(12, 12, "p2"))
    project.click(1, prompt(40, 30, "p3"))
    project.store.write(lambda connection: None, timeout_s=30)
    recorded = project.answers.answers(PROJECT, 1)
    assert len(recorded) == 2
    assert all(one.labels == ("Handle",) for one in recorded)
    assert {one.asked for one in recorded} == {("calico", "wrong", "right")}


def test_previews_and_tasks_without_a_project_are_answered_and_not_recorded(project):
    group = ImageGroup((np.zeros((40, 60, 3), np.uint8),), ("x",))
    for task in (Task(None, PROJECT, ("a",)), Task(5, None, ("a",))):
        believed = project.trust.of(task, None)
        suggested = project.segmenter.suggest(group, [prompt(3, 3)], (), Own(), trust=believed)
        assert len(suggested.prediction.parts) == 1
    project.store.write(lambda connection: None, timeout_s=30)
    assert project.answers.projects() == ()


def test_a_database_that_cannot_be_read_leaves_the_trust_read_last(project, monkeypatch):
    now = [0.0]
    cache = TrustCache(project.answers, clock=lambda: now[0])
    for task in range(1, 4):
        project.click(task)
        project.submit(task, RIGHT)
    project.learn()
    known = cache.of(PROJECT)
    assert known.counts

    def fail(*_):
        raise StoreError("gone")

    monkeypatch.setattr(source_trust.SourceAnswerStore, "stamp", fail)
    now[0] = 10.0
    assert cache.of(PROJECT) is known
    assert cache.of(PROJECT + 1).counts == {}
