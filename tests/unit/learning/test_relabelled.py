"""A state that only names a label anew is no new correction, whoever brings it, and when."""

from __future__ import annotations

import pytest

from backend.learning.derivation import Derivation, Derived
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing
from tests.unit.learning.annotated import box, deletion, event, results
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401
from tests.unit.learning.school import School

MASK, SMALLER = box(10, 10, 30, 40), box(10, 10, 30, 30)
OLD, NEW = results(("a", MASK, "wheel")), results(("a", MASK, "tyre"))


@pytest.fixture
def school(tmp_path, database_url):  # noqa: F811
    made = School(tmp_path, url=database_url)
    yield made
    made.store.close()


def head(school, annotation_id=1):
    found = {one.annotation_id: one for one in school.repository.heads(7)}
    return found[annotation_id]


def labels(school):
    return {row.label_after for row in school.repository.outcomes(7)}


def annotated(school):
    school.store.record_events([event(1, OLD)])
    assert school.derivation.derive(7) == Derived(changed=1)
    return head(school), school.repository.tasks(7)[0]


@pytest.mark.parametrize("is_sent_first", [False, True])
def test_a_renamed_state_has_the_place_of_the_state_it_repeats(school, is_sent_first):
    before, row = annotated(school)
    renamed = event(1, NEW, second=9)
    if is_sent_first:  # the webhook may be faster than the answer to the change
        school.store.record_events([renamed])
        assert school.derivation.derive(7) == Derived(changed=1)
        assert school.repository.tasks(7)[0].seq > row.seq
    assert school.store.record_relabelling(renamed, before=before.key)
    assert school.store.record_events([renamed]) == 0
    assert school.derivation.derive(7) == Derived(changed=1)
    assert school.derivation.derive(7) == Derived()
    (found,) = school.repository.tasks(7)
    assert (found.seq, found.updated_at) == (row.seq, row.updated_at)
    assert labels(school) == {"tyre"}
    assert (head(school).key, head(school).repeats) == (renamed.key, before.key)
    assert head(school).version_us > before.version_us  # what Label Studio shows


def test_a_state_that_is_renamed_twice_repeats_the_first(school):
    before, row = annotated(school)
    for second, label in ((9, "tyre"), (20, "rim")):
        renamed = event(1, results(("a", MASK, label)), second=second)
        assert school.store.record_relabelling(renamed, before=head(school).key)
    school.derivation.derive(7)
    assert head(school).repeats == before.key
    assert (school.repository.tasks(7)[0].seq, labels(school)) == (row.seq, {"rim"})


def test_the_next_change_of_a_person_is_a_new_correction(school):
    before, row = annotated(school)
    assert school.store.record_relabelling(event(1, NEW, second=9), before=before.key)
    school.store.record_events([event(1, results(("a", SMALLER, "tyre")), second=60)])
    school.derivation.derive(7)
    assert head(school).repeats is None
    assert school.repository.tasks(7)[0].seq > row.seq


def test_a_change_that_came_meanwhile_is_not_replaced(school):
    before, _ = annotated(school)
    changed = event(1, results(("a", SMALLER, "wheel")), second=8)
    school.store.record_events([changed])
    assert not school.store.record_relabelling(event(1, NEW, second=9), before=before.key)
    assert (head(school).key, head(school).repeats) == (changed.key, None)
    school.store.record_events([deletion(1)])
    assert not school.store.record_relabelling(event(1, NEW, second=9), before=changed.key)
    assert head(school).is_deleted


def test_renaming_does_not_choose_another_annotation_of_a_task(school):
    school.store.record_events([event(1, OLD), event(2, OLD, second=60, annotator=2)])
    school.derivation.derive(7)
    (row,) = school.repository.tasks(7)
    assert (row.standing, row.annotation_id) == (Standing.CORRECTED, 2)
    for annotation_id, second in ((2, 100), (1, 160)):
        renamed = event(annotation_id, NEW, second=second, annotator=annotation_id)
        before = head(school, annotation_id).key
        assert school.store.record_relabelling(renamed, before=before)
    school.derivation.derive(7)
    (found,) = school.repository.tasks(7)
    assert (found.annotation_id, found.seq) == (2, row.seq)


def test_what_was_learned_before_a_renaming_is_not_learned_again(school):
    tasks = (1, 2, 3)
    school.correct(*tasks)
    assert school.train() == 1
    for found in CorrectionRepository(school.store).heads(7):
        again = results(("a", MASK, "tyre"), ("b", box(0, 50, 5, 60), "rim"))
        renamed = event(found.annotation_id, again, task=found.task_id, second=5000)
        assert school.store.record_relabelling(renamed, before=found.key)
    Derivation(school.repository).derive(7)
    assert labels(school) == {"tyre", "rim"}
    assert school.train() == 0
