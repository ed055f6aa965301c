"""No single answer of Label Studio's API takes a correction away, and none does so for ever."""

from __future__ import annotations

import copy

import pytest
from sqlalchemy import update

from backend.clock import to_us
from backend.label_studio.event import read_annotation
from backend.learning import reconcile as module
from backend.learning.derivation import Derivation
from backend.learning.doubts import is_too_much
from backend.learning.reconcile import Reconciler, Repair
from backend.storage.tables import ann_head, doubt, event_log
from tests.unit.learning.annotated import body, box, deletion, event, results, task_deletion
from tests.unit.learning.fake_studio import moment

RESULT = results(("a", box(1, 1, 9, 9), "lid"))
OTHER = results(("a", box(2, 2, 8, 8), "rim"))
ALL = set(range(1, 31))
TEN_MINUTES = 600


@pytest.fixture
def many(repository, studio):
    """Thirty annotations of thirty tasks, known on both sides for an hour."""
    for number in sorted(ALL):
        studio.annotate(body(number, RESULT, task=number, second=number))
        told = event(number, RESULT, task=number, second=number, action="ANNOTATION_CREATED")
        repository.store.record_events([told])
    pass_time(repository, 3600)
    return Reconciler(repository, studio.client(), pauses_s=())


def pass_time(repository, seconds):
    """Makes everything so far older."""

    def change(connection):
        for column in (ann_head.c.received_us, event_log.c.received_at_us, doubt.c.first_seen_us):
            moved = update(column.table).values({column: column - round(seconds * 1e6)})
            connection.execute(moved)

    repository.store.write(change, timeout_s=30)


def live(repository):
    return {head.annotation_id for head in repository.heads(7) if not head.is_deleted}


def look_for_hours(repository, reconciler, hours=3):
    found = []
    for _ in range(hours):
        found.append(reconciler.reconcile(7, is_full=True))
        pass_time(repository, 3600)
    return found


def without_tasks(tasks):
    return {}


def without_annotations(tasks):
    return {number: task | {"annotations": []} for number, task in tasks.items()}


def another_server(tasks):
    return {number + 1000: task | {"id": number + 1000} for number, task in tasks.items()}


def half(tasks):
    return {number: task for number, task in tasks.items() if number % 2}


def annotations_of_half(tasks):
    return without_annotations(tasks) | half(tasks)


@pytest.mark.parametrize(
    ("strange", "held"),
    [
        (without_tasks, 30),
        (without_annotations, 30),
        (another_server, 30),
        (half, 15),
        (annotations_of_half, 15),
    ],
)
def test_a_strange_answer_deletes_nothing_however_often_it_comes(
    repository, studio, many, strange, held
):
    true = studio.tasks
    studio.tasks = strange(copy.deepcopy(true))
    found = look_for_hours(repository, many)
    assert {(one.deleted, one.held_back) for one in found} == {(0, held)}
    assert live(repository) & ALL == ALL
    assert len(repository.doubts(7)) == held
    studio.tasks = true
    many.reconcile(7, is_full=True)
    assert live(repository) >= ALL
    assert not {one.annotation_id for one in repository.doubts(7)} & ALL


def test_few_deletions_are_believed_when_they_are_seen_again_later(repository, studio, many):
    for number in (4, 5):
        studio.unannotate(number, second=100)
    del studio.tasks[6]
    assert many.reconcile(7, is_full=True) == Repair(held_back=3)
    assert many.reconcile(7, is_full=True) == Repair(held_back=3)  # no time has passed
    pass_time(repository, TEN_MINUTES - 60)
    assert many.reconcile(7, is_full=False) == Repair(held_back=3)
    pass_time(repository, 120)
    assert many.reconcile(7, is_full=False) == Repair(deleted=3)
    assert live(repository) == ALL - {4, 5, 6}
    assert repository.doubts(7) == ()


def test_what_is_there_in_between_was_not_missing(repository, studio, many):
    task = studio.tasks.pop(4)
    many.reconcile(7, is_full=True)
    studio.tasks[4] = task
    pass_time(repository, TEN_MINUTES)
    assert many.reconcile(7, is_full=True) == Repair()
    del studio.tasks[4]
    assert many.reconcile(7, is_full=True) == Repair(held_back=1)
    assert live(repository) == ALL


def test_a_page_that_is_missing_now_and_then_deletes_nothing(repository, studio, many):
    true = studio.tasks
    for hour in range(6):
        page = range(5 * hour, 5 * hour + 5)
        studio.tasks = {number: task for number, task in true.items() if number not in page}
        assert many.reconcile(7, is_full=True).deleted == 0
        pass_time(repository, 3600)
    assert live(repository) == ALL


def test_the_last_annotation_of_a_project_is_not_missed_without_a_word(repository, studio):
    repository.store.record_events([event(1, RESULT)])
    pass_time(repository, 3600)
    studio.add_task(5)
    lonely = Reconciler(repository, studio.client(), pauses_s=())
    assert {one.held_back for one in look_for_hours(repository, lonely)} == {1}
    assert lonely.reconcile(7, is_full=False, is_approved=True) == Repair(deleted=1)


def test_a_person_s_word_deletes_and_what_comes_back_counts_again(repository, studio, many):
    true = studio.tasks
    studio.tasks = without_annotations(copy.deepcopy(true))
    assert many.reconcile(7, is_full=True, is_approved=True) == Repair(deleted=30)
    assert live(repository) == set()
    derivation = Derivation(repository)
    derivation.derive(7)
    assert repository.tasks(7) == ()
    newest = max(one.seq for one in repository.store.events(7))
    studio.tasks = true
    pass_time(repository, 120)
    assert many.reconcile(7, is_full=True) == Repair(recovered=30)
    assert live(repository) == ALL
    assert derivation.derive(7).changed == 30
    seen = [row for row in repository.tasks(7) if row.seq > newest]
    assert len(seen) == 30, "training sees that they are there"
    assert many.reconcile(7, is_full=True) == Repair()


def test_what_was_missed_and_deleted_may_come_and_go_again(repository, studio, many):
    for _ in range(3):
        task = studio.tasks.pop(9)
        many.reconcile(7, is_full=True)
        pass_time(repository, TEN_MINUTES)
        assert many.reconcile(7, is_full=True) == Repair(deleted=1)
        studio.tasks[9] = task
        pass_time(repository, TEN_MINUTES)
        assert many.reconcile(7, is_full=True) == Repair(recovered=1)
        pass_time(repository, TEN_MINUTES)


def test_an_id_that_is_used_again_is_found_also_without_an_event(repository, studio, many):
    repository.store.record_events([deletion(4)])
    studio.unannotate(4, second=50)
    pass_time(repository, 120)
    studio.annotate(body(4, OTHER, task=8, second=200))
    assert many.reconcile(7, is_full=True) == Repair(recovered=1)
    (head,) = [head for head in repository.heads(7) if head.annotation_id == 4]
    assert (head.is_deleted, head.task_id) == (False, 8)
    assert many.reconcile(7, is_full=True) == Repair()


def test_a_task_that_is_there_although_it_was_said_to_be_deleted_counts(repository, studio, many):
    repository.store.record_events([task_deletion(4, 5)])
    assert live(repository) == ALL - {4, 5}
    pass_time(repository, 120)
    assert many.reconcile(7, is_full=True) == Repair(recovered=2)
    assert live(repository) == ALL
    repository.store.record_events([task_deletion(4, 5)])
    assert live(repository) == ALL - {4, 5}
    pass_time(repository, 120)
    repository.store.record_events([event(40, RESULT, task=4, second=900)])
    assert live(repository) == (ALL | {40}) - {4, 5}


def test_an_older_backup_takes_no_change_back(repository, studio, many):
    backup = copy.deepcopy(studio.tasks)
    for number in sorted(ALL):
        studio.annotate(body(number, OTHER, task=number, second=500 + number))
    assert many.reconcile(7, is_full=True) == Repair(recovered=30)
    newest = {head.key for head in repository.heads(7)}
    pass_time(repository, 3600)
    studio.tasks = backup
    assert {one.held_back for one in look_for_hours(repository, many)} == {30}
    assert {head.key for head in repository.heads(7)} == newest


def test_one_older_state_is_believed_when_it_is_seen_again(repository, studio, many):
    studio.annotate(body(3, OTHER, task=3, second=900))
    many.reconcile(7, is_full=True)
    pass_time(repository, 3600)
    studio.tasks[3]["annotations"][0] = body(3, RESULT, task=3, second=3)["annotation"]
    studio.tasks[3]["updated_at"] = moment(901)
    assert many.reconcile(7, is_full=False) == Repair(held_back=1)
    pass_time(repository, TEN_MINUTES)
    assert many.reconcile(7, is_full=False) == Repair(recovered=1)
    (head,) = [head for head in repository.heads(7) if head.annotation_id == 3]
    read = read_annotation(repository.store.find_event(head.key).event)
    assert [region.label for region in read.regions] == ["lid"]
    assert many.reconcile(7, is_full=True) == Repair()


def test_label_studio_s_state_wins_over_one_stamped_far_ahead(repository, studio, many):
    ahead = body(3, OTHER, task=3)
    ahead["annotation"]["updated_at"] = "9999-12-31T00:00:00Z"
    studio.annotate(ahead)
    assert many.reconcile(7, is_full=True) == Repair(recovered=1)
    pass_time(repository, 3600)
    studio.tasks[3]["annotations"] = [body(3, RESULT, task=3, second=700)["annotation"]]
    studio.tasks[3]["updated_at"] = moment(700)
    assert many.reconcile(7, is_full=True) == Repair(recovered=1)
    assert many.reconcile(7, is_full=True) == Repair()


def test_a_task_stamped_far_ahead_hides_nothing_that_comes_later(repository, studio, many):
    studio.tasks[3]["updated_at"] = "9999-12-31T00:00:00.000000Z"
    many.reconcile(7, is_full=True)
    assert to_us(repository.cursor(7).updated_at) < to_us(
        module.from_us(module.now_us()) + module._OVERLAP
    )
    studio.annotate(body(4, OTHER, task=4, second=10**9))
    assert many.reconcile(7, is_full=False) == Repair(recovered=1)


def test_a_change_after_a_step_back_of_the_clock_is_found_by_a_full_look(repository, studio, many):
    studio.annotate(body(4, OTHER, task=4, second=7200))
    assert many.reconcile(7, is_full=True) == Repair(recovered=1)
    pass_time(repository, 3600)
    studio.tasks[4]["annotations"] = [body(4, RESULT, task=4, second=3600)["annotation"]]
    studio.tasks[4]["updated_at"] = moment(3600)
    assert many.reconcile(7, is_full=True) == Repair(held_back=1)
    pass_time(repository, TEN_MINUTES)
    assert many.reconcile(7, is_full=True) == Repair(recovered=1)


def test_an_event_that_comes_during_the_look_is_newer_than_what_was_seen(repository, studio, many):
    task = studio.tasks.pop(4)
    many.reconcile(7, is_full=True)
    pass_time(repository, TEN_MINUTES)
    told = event(4, OTHER, task=4, second=800)
    fetch = studio._page

    def telling(params):
        repository.store.record_events([told])
        return fetch(params)

    studio._page = telling
    assert many.reconcile(7, is_full=True).deleted == 0
    assert live(repository) == ALL
    (head,) = [head for head in repository.heads(7) if head.annotation_id == 4]
    assert head.key == told.key
    studio._page, studio.tasks[4] = fetch, task
    studio.annotate(body(4, OTHER, task=4, second=800))
    assert many.reconcile(7, is_full=True) == Repair()


@pytest.mark.parametrize(
    ("count", "live", "answer"),
    [(0, 0, False), (0, 9, False), (1, 1, True), (1, 2, False), (2, 2, True), (2, 10, True)]
    + [(1, 10, False), (3, 30, False), (4, 30, True), (100, 1000, False), (101, 1000, True)],
)
def test_a_tenth_of_a_project_is_believed_at_once_but_never_all_of_it(count, live, answer):
    assert is_too_much(count, live) is answer
