"""Corrections judge what sources answered: once each, in any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.errors import BusyError
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.source_learner import SourceLearner
from backend.learning.source_standing import read_source_standings
from backend.storage import source_trust
from backend.storage.source_trust import RecordedAnswer, SourceAnswerStore
from backend.storage.store import Store, open_store
from calico_model.sources.consensus import SourceProposal
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey, TrustTable
from calico_model.types import BoolMask
from calico_model.vocabulary import Vocabulary
from tests.unit.learning.annotated import box, deletion, event, results
from tests.unit.learning.databases import database_url, postgres_server
from tests.unit.learning.school import TRAINED, School

__all__ = ["database_url", "postgres_server"]
PROJECT = 7
HANDLE, ELSEWHERE = box(5, 5, 20, 20), box(25, 40, 35, 55)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = open_store(database_url, commit_timeout_s=30)
    yield opened
    opened.close()


class Server:
    """What one process holds: it derives, and then learns."""

    def __init__(self, store: Store) -> None:
        self.derivation = Derivation(CorrectionRepository(store))
        self.learner = SourceLearner(store, self.derivation)

    def round(self) -> int:
        self.derivation.derive(PROJECT)
        return self.learner.learn(PROJECT)


def ask(
    store: Store,
    ability: Ability = Ability.CLICK,
    *,
    task: int = 5,
    image: int = 0,
    labels: tuple[str, ...] = (),
    size_hw: tuple[int, int] = (40, 60),
    **masks: BoolMask,
) -> None:
    """Records what the sources answered, and waits until it is written."""
    label = labels[0] if labels and ability is Ability.TEXT else None
    proposals = tuple(SourceProposal(name, mask, 0.5, label) for name, mask in masks.items())
    answer = RecordedAnswer(
        PROJECT, task, image, ability, f"{labels}", size_hw, tuple(masks), labels, proposals
    )
    assert SourceAnswerStore(store).record(answer)
    store.write(lambda connection: None, timeout_s=30)


def submit(store: Store, *drawn: tuple[object, ...], task: int = 5, second: int = 0) -> None:
    store.record_events([event(task, results(*drawn), task=task, second=second)])


def trust(store: Store) -> TrustTable:
    return SourceAnswerStore(store).trust(PROJECT)


def test_a_click_that_was_submitted_teaches_its_label(store: Store) -> None:
    ask(store, sam=HANDLE, random=ELSEWHERE)
    submit(store, ("r", HANDLE, "Handles"))
    assert Server(store).round() == 1
    assert trust(store).counts == {
        TrustKey("sam", Ability.CLICK, "handle"): TrustCounts(1, 1, 1.0, 1),
        TrustKey("random", Ability.CLICK, "handle"): TrustCounts(1, 0, 0.0, 1),
    }


def test_a_name_that_was_asked_teaches_text(store: Store) -> None:
    ask(store, Ability.TEXT, labels=("The Handle",), sam3=HANDLE, dino=ELSEWHERE)
    submit(store, ("r", HANDLE, "handle"))
    Server(store).round()
    assert trust(store).counts == {
        TrustKey("sam3", Ability.TEXT, "handle"): TrustCounts(1, 1, 1.0, 1),
        TrustKey("dino", Ability.TEXT, "handle"): TrustCounts(1, 0, 0.0, 1),
    }


def test_a_name_that_was_renamed_teaches_that_it_was_wrong(store: Store) -> None:
    ask(store, Ability.TEXT, labels=("handle",), sam3=HANDLE)
    submit(store, ("r", HANDLE, "lid"))
    Server(store).round()
    assert trust(store).counts == {
        TrustKey("sam3", Ability.TEXT, "handle"): TrustCounts(1, 0, 0.0, 0)
    }


def test_other_images_of_the_group_do_not_count(store: Store) -> None:
    ask(store, Ability.TEXT, labels=("handle",), image=1, sam3=HANDLE)
    submit(store, ("r", HANDLE, "handle"))
    Server(store).round()
    assert trust(store).counts == {
        TrustKey("sam3", Ability.TEXT, "handle"): TrustCounts(1, 0, 0.0, 0)
    }


def test_each_correction_counts_once_with_several_servers(store: Store, database_url: str) -> None:
    for task in range(1, 7):
        ask(store, task=task, sam=HANDLE)
        submit(store, ("r", HANDLE, "handle"), task=task)
    others = [open_store(database_url, is_guest=True, commit_timeout_s=30) for _ in range(2)]
    try:
        servers = [Server(one) for one in (store, *others)]
        with ThreadPoolExecutor(3) as pool:
            for _ in range(2):
                for done in [pool.submit(server.round) for server in servers]:
                    done.result()
        assert trust(store).counts == {
            TrustKey("sam", Ability.CLICK, "handle"): TrustCounts(6, 6, 6.0, 6)
        }
        assert [server.round() for server in servers] == [0, 0, 0]
    finally:
        for one in others:
            one.close()


def test_a_changed_annotation_is_judged_anew(store: Store) -> None:
    ask(store, sam=HANDLE)
    submit(store, ("r", ELSEWHERE, "handle"))
    server = Server(store)
    server.round()
    assert trust(store).counts == {}  # nobody knows what was clicked on
    submit(store, ("r", HANDLE, "handle"), second=60)
    assert server.round() == 1
    key = TrustKey("sam", Ability.CLICK, "handle")
    assert trust(store).counts == {key: TrustCounts(1, 1, 1.0, 1)}


def test_a_deleted_annotation_takes_its_lessons_along(store: Store) -> None:
    ask(store, sam=HANDLE)
    submit(store, ("r", HANDLE, "handle"))
    server = Server(store)
    server.round()
    store.record_events([deletion(5)])
    server.round()
    assert trust(store).counts == {}


def test_what_is_asked_after_the_submission_waits_for_the_next(store: Store) -> None:
    submit(store, ("r", HANDLE, "handle"))
    ask(store, labels=("lid",), sam=ELSEWHERE)
    server = Server(store)
    assert server.round() == 0
    submit(store, ("r", HANDLE, "handle"), ("s", ELSEWHERE, "lid"), second=60)
    assert server.round() == 1
    key = TrustKey("sam", Ability.CLICK, "lid")
    assert trust(store).counts == {key: TrustCounts(1, 1, 1.0, 1)}


def test_an_image_of_another_size_teaches_nothing(store: Store) -> None:
    ask(store, size_hw=(30, 30), sam=box(0, 0, 9, 9, size=(30, 30)))
    submit(store, ("r", HANDLE, "handle"))
    Server(store).round()
    assert trust(store).counts == {}


def test_nothing_is_read_where_no_source_answered(store: Store) -> None:
    submit(store, ("r", HANDLE, "handle"))
    assert Server(store).round() == 0


def test_a_long_project_keeps_the_newest_judgements_and_judges_none_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_trust, "_KEPT_TASKS", 3)
    server = Server(store)
    for task in range(1, 7):
        ask(store, task=task, sam=HANDLE)
        submit(store, ("r", HANDLE, "handle"), task=task)
        assert server.round() == 1
    assert [server.round(), Server(store).round()] == [0, 0]
    answers = SourceAnswerStore(store)
    assert sorted(answers.judged(PROJECT)) == sorted(answers.answered(PROJECT)) == [4, 5, 6]
    key = TrustKey("sam", Ability.CLICK, "handle")
    assert trust(store).counts == {key: TrustCounts(3, 3, 3.0, 3)}
    submit(store, ("r", ELSEWHERE, "handle"), task=1, second=60)  # what was answered is gone
    assert server.round() == 0


def test_standings_are_told_by_label_best_first(store: Store) -> None:
    for task in range(1, 11):
        ask(store, task=task, sam=HANDLE, random=ELSEWHERE)
        submit(store, ("r", HANDLE, "Handle"), task=task)
    Server(store).round()
    rows = read_source_standings(SourceAnswerStore(store), PROJECT, Vocabulary(("Handle",)))
    assert [(row.label, row.source, row.kept, row.is_silent) for row in rows] == [
        ("Handle", "sam", 10, False),
        ("Handle", "random", 0, True),
    ]
    assert rows[0].trust > 0.85 > 0.2 > rows[1].trust


def test_the_trainer_learns_whom_to_believe_before_it_trains(tmp_path: Path) -> None:
    school = School(tmp_path)
    try:
        learner = SourceLearner(school.store, school.derivation)
        trainer = school.new_trainer(learn_sources=learner.learn)
        ask(school.store, task=1, sam=box(10, 10, 30, 40))
        school.correct(1)
        trainer.round(school.stop)
        key = TrustKey("sam", Ability.CLICK, "lid")
        assert trust(school.store).counts == {key: TrustCounts(1, 1, 1.0, 1)}
    finally:
        school.store.close()


def test_training_goes_on_where_sources_cannot_be_judged(tmp_path: Path) -> None:
    def fail(project_id: int) -> int:
        raise BusyError("the database is slow", retry_after_s=1)

    school = School(tmp_path)
    try:
        school.correct(*TRAINED[:3])
        assert school.new_trainer(learn_sources=fail).round(school.stop) == 1
    finally:
        school.store.close()
