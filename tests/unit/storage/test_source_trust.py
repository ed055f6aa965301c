"""Answers of sources are recorded, judged once by corrections, and read as trust."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from backend.storage import source_trust
from backend.storage.source_trust import (
    RecordedAnswer,
    SourceAnswerStore,
    TrustCache,
    question_hash,
)
from backend.storage.store import Store, open_store
from calico_model.sources.consensus import SourceProposal
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey
from tests.unit.learning.databases import database_url, postgres_server

__all__ = ["database_url", "postgres_server"]
PROJECT = 7
WHEEL = TrustKey("sam", Ability.CLICK, "wheel")
HIT, MISS = TrustCounts(1, 1, 0.75, 1), TrustCounts(1, 0, 0.0, 1)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = open_store(database_url, commit_timeout_s=30)
    yield opened
    opened.close()


def recorded(
    task: int = 5, question: str = "q", left: int = 0, **changes: object
) -> RecordedAnswer:
    mask = np.zeros((40, 60), np.bool_)
    mask[3:9, left : left + 10] = True
    proposals = (SourceProposal("sam", mask, 0.5, None), SourceProposal("calico", ~mask, 0.25, "b"))
    answer = RecordedAnswer(
        PROJECT,
        task,
        0,
        Ability.CLICK,
        question,
        (40, 60),
        ("sam", "calico", "x"),
        ("b",),
        proposals,
    )
    return replace(answer, **changes)


def settle(store: Store) -> None:
    """Returns after everything queued before is written: the writer keeps the order."""
    store.write(lambda connection: None, timeout_s=30)


def test_an_answer_comes_back_as_it_was(store: Store) -> None:
    answers = SourceAnswerStore(store)
    answer = recorded()
    assert answers.record(answer)
    settle(store)
    (found,) = answers.answers(PROJECT, 5)
    assert found.made_at_us > 0
    for name in ("image_index", "ability", "question", "size_hw", "asked", "labels"):
        assert getattr(found, name) == getattr(answer, name)
    for one, other in zip(found.proposals, answer.proposals, strict=True):
        assert (one.source, one.score, one.label) == (other.source, other.score, other.label)
        assert np.array_equal(one.mask, other.mask)


def test_a_later_answer_to_the_same_question_replaces_the_earlier(store: Store) -> None:
    answers = SourceAnswerStore(store)
    for answer in (recorded(left=0), recorded(left=20), recorded(question="other")):
        answers.record(answer)
    settle(store)
    found = {one.question: one for one in answers.answers(PROJECT, 5)}
    assert found.keys() == {"q", "other"}
    assert np.array_equal(found["q"].proposals[0].mask, recorded(left=20).proposals[0].mask)


def test_judging_again_counts_once(store: Store) -> None:
    answers = SourceAnswerStore(store)
    for _ in range(3):
        answers.judge(PROJECT, 5, "state", {WHEEL: HIT})
    assert answers.trust(PROJECT).counts == {WHEEL: HIT}
    answers.judge(PROJECT, 5, "changed", {WHEEL: MISS})
    answers.judge(PROJECT, 6, "state", {WHEEL: HIT})
    assert answers.trust(PROJECT).counts == {WHEEL: HIT + MISS}
    answers.forget(PROJECT, [5])
    assert answers.trust(PROJECT).counts == {WHEEL: HIT}
    assert answers.judged(PROJECT) == {6: "state"}


def test_projects_are_apart(store: Store) -> None:
    answers = SourceAnswerStore(store)
    answers.judge(PROJECT, 5, "state", {WHEEL: HIT})
    assert answers.trust(PROJECT + 1).counts == {}


def test_only_the_newest_tasks_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_trust, "NEWEST_TASKS", 3)
    moments = itertools.count(1)
    monkeypatch.setattr(source_trust, "now_us", lambda: next(moments))
    answers = SourceAnswerStore(store)
    for task in range(5):
        answers.judge(PROJECT, task, "state", {WHEEL: HIT if task < 2 else MISS})
    assert answers.trust(PROJECT).counts == {WHEEL: TrustCounts(3, 0, 0.0, 3)}


def test_old_answers_are_deleted_and_what_they_taught_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_trust, "_MOST_ANSWERS", 4)
    monkeypatch.setattr(source_trust, "_PRUNE_EVERY", 2)
    moments = itertools.count(1)
    monkeypatch.setattr(source_trust, "now_us", lambda: next(moments))
    answers = SourceAnswerStore(store)
    answers.judge(PROJECT, 0, "state", {WHEEL: HIT})
    for task in range(10):
        answers.record(recorded(task))
    settle(store)
    assert sorted(answers.answered(PROJECT)) == [6, 7, 8, 9]
    assert answers.trust(PROJECT).counts == {WHEEL: HIT}


def test_judgements_that_count_no_more_are_deleted_with_their_answers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_trust, "NEWEST_TASKS", 3)
    monkeypatch.setattr(source_trust, "_KEPT_TASKS", 4)
    moments = itertools.count(1)
    monkeypatch.setattr(source_trust, "now_us", lambda: next(moments))
    answers = SourceAnswerStore(store)
    for task in range(10):
        answers.record(recorded(task))
        answers.judge(PROJECT, task, "state", {WHEEL: HIT if task < 6 else MISS})
    answers.judge(PROJECT + 1, 0, "state", {WHEEL: HIT})
    settle(store)
    before = answers.trust(PROJECT).counts
    assert answers.drop_old(PROJECT) == 6
    assert answers.drop_old(PROJECT) == 0
    assert answers.trust(PROJECT).counts == before == {WHEEL: TrustCounts(3, 0, 0.0, 3)}
    assert sorted(answers.judged(PROJECT)) == sorted(answers.answered(PROJECT)) == [6, 7, 8, 9]
    assert answers.judged(PROJECT + 1) == {0: "state"}
    answers.forget(PROJECT, [9])  # its annotation was deleted: an older one counts again
    assert answers.trust(PROJECT).counts == before


def test_the_cache_reads_again_after_two_seconds_and_only_what_changed(store: Store) -> None:
    answers, now = SourceAnswerStore(store), [0.0]
    cache = TrustCache(answers, clock=lambda: now[0])
    empty = cache.of(PROJECT)
    answers.judge(PROJECT, 5, "state", {WHEEL: HIT})
    assert cache.of(PROJECT) is empty
    now[0] = 2.5
    learned = cache.of(PROJECT)
    assert learned.counts == {WHEEL: HIT}
    assert learned.state != empty.state
    now[0] = 5.0
    assert cache.of(PROJECT) is learned
    assert cache.of(None).counts == {}


def test_questions_are_the_same_by_their_words() -> None:
    assert question_hash("a", (1.0, 2.0)) == question_hash("a", (1.0, 2.0))
    assert question_hash("a", (1.0, 2.0)) != question_hash("a", (1.0, 2.5))
    assert len(question_hash("x")) == 64
