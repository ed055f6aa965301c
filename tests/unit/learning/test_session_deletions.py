"""Annotations and tasks that are deleted before, while and after they are learned."""

from __future__ import annotations

import pytest

from backend.learning.schedule import Cause, RunState, SchedulePolicy
from backend.storage.versions import VersionStatus
from tests.unit.learning.annotated import deletion, event, results, task_deletion
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401
from tests.unit.learning.school import PROJECT, TRAINED, School


@pytest.fixture
def school(tmp_path, database_url):  # noqa: F811
    made = School(tmp_path, url=database_url)
    yield made
    made.store.close()


def test_a_deletion_has_what_is_left_learned_again(school):
    school.policy = SchedulePolicy(every=1)
    school.correct(*TRAINED[:3])
    bad = event(999, results(), task=TRAINED[0], project=PROJECT, annotator=2, second=5)
    school.store.record_events([bad])
    school.train()
    school.store.record_events([deletion(999, project=PROJECT)])
    school.runs.request(PROJECT)
    assert school.train() == 1
    assert school.updater.updates[-1][:2] == ((TRAINED[0],), tuple(TRAINED[1:3]))


def test_tasks_deleted_while_they_are_learned_are_gone_afterwards(school):
    school.correct(*TRAINED[:4])
    healthy = school.updater.update

    def delete_meanwhile(*arguments, **options):
        school.store.record_events([task_deletion(*TRAINED[:4], project=PROJECT)])
        return healthy(*arguments, **options)

    school.updater.update = delete_meanwhile
    assert school.train() == 1
    assert school.last.state is RunState.PUBLISHED
    assert school.train() == 0
    assert school.repository.tasks(PROJECT) == ()
    school.runs.request(PROJECT)
    assert school.train() == 0


def test_tasks_deleted_before_they_are_loaded_end_the_run_in_peace(school):
    school.correct(*TRAINED[:3])
    derive = school.derivation.derive

    def delete_afterwards(project_id):
        found = derive(project_id)
        school.store.record_events([task_deletion(*TRAINED[:3], project=PROJECT)])
        return found

    school.trainer._update(PROJECT, 1)
    school.derivation.derive = delete_afterwards
    run_id = school.runs.claim(PROJECT, Cause.COUNT)
    state = school.open_session().train(PROJECT, run_id, stop=lambda: False)
    assert state is RunState.STOPPED
    assert school.versions.all() == ()


def test_a_candidate_that_learned_from_what_was_deleted_is_not_judged(school):
    school.correct(*TRAINED[:4])
    school.updater.probe, healthy = lambda *_: 1 / 0, school.updater.probe
    school.train()
    (left,) = school.versions.all()
    school.updater.probe = healthy
    school.store.record_events([deletion(100 + TRAINED[0], project=PROJECT)])
    assert school.train() == 1
    assert school.versions.find(left.id).status is VersionStatus.REJECTED
    assert school.current.corrections == 3
