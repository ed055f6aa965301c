"""Events that Label Studio could not deliver are found in its database."""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.background import build_reconcile_watch
from backend.clock import from_us
from backend.errors import BusyError, LabelStudioAuthError, LabelStudioError
from backend.label_studio.event import read_annotation
from backend.learning import reconcile as module
from backend.learning.reconcile import Reconciler, Repair
from backend.learning.reconcile_loop import ReconcileWatch
from backend.serving.metrics import Metrics
from backend.types import EventAction
from tests.unit.learning.annotated import START, body, box, deletion, event, results, task_deletion
from tests.unit.learning.fake_studio import FakeStudio

RESULT = results(("a", box(1, 1, 9, 9), "lid"))


@pytest.fixture
def settled(monkeypatch):
    """Every head is old enough to be missed."""
    monkeypatch.setattr(module, "_GRACE_US", -1)


def reconciler(repository, studio, **options):
    naps = []
    options = {"confirm_after_s": 0} | options
    made = Reconciler(repository, studio.client(), sleep=naps.append, **options)
    made.naps = naps
    return made


def live(repository):
    return {head.annotation_id for head in repository.heads(7) if not head.is_deleted}


def test_a_lost_event_is_journalled_as_it_would_have_come(repository, studio):
    sent = body(1, RESULT, second=3, parent=9, truth=True)
    studio.annotate(sent)
    assert reconciler(repository, studio).reconcile(7, is_full=False) == Repair(recovered=1)
    (head,) = repository.heads(7)
    stored = repository.store.find_event(head.key).event
    assert stored.key == event(1, RESULT, second=3, parent=9, truth=True).key
    assert (stored.task_id, stored.action) == (5, EventAction.ANNOTATION_UPDATED)
    read = read_annotation(stored)
    assert (read.parent_prediction_id, read.is_ground_truth) == (9, True)
    assert [region.label for region in read.regions] == ["lid"]


def test_what_the_webhook_told_is_not_told_again(repository, studio):
    studio.annotate(body(1, RESULT))
    repository.store.record_events([event(1, RESULT, action="ANNOTATION_CREATED")])
    assert reconciler(repository, studio).reconcile(7, is_full=True) == Repair()
    assert len(repository.store.events(7)) == 1


def test_a_lost_update_and_a_lost_skip_are_found(repository, studio):
    for number in (1, 2):
        repository.store.record_events([event(number, RESULT, task=number)])
        studio.annotate(body(number, RESULT, task=number))
    both = reconciler(repository, studio)
    both.reconcile(7, is_full=True)
    studio.annotate(body(1, [], task=1, second=10))
    studio.annotate(body(2, [], task=2, second=11, skipped=True))
    assert both.reconcile(7, is_full=False) == Repair(recovered=2)
    keys = {head.annotation_id: head.key for head in repository.heads(7)}
    newest = {n: read_annotation(repository.store.find_event(k).event) for n, k in keys.items()}
    assert newest[1].regions == ()
    assert newest[2].was_skipped


@pytest.mark.usefixtures("settled")
def test_a_lost_deletion_is_found(repository, studio):
    for number in (1, 2):
        repository.store.record_events([event(number, RESULT)])
        studio.annotate(body(number, RESULT))
    both = reconciler(repository, studio)
    assert both.reconcile(7, is_full=True) == Repair()
    studio.unannotate(1, second=20)
    assert both.reconcile(7, is_full=False) == Repair(held_back=1)
    assert live(repository) == {1, 2}
    assert both.reconcile(7, is_full=False) == Repair(deleted=1)
    assert live(repository) == {2}
    assert both.reconcile(7, is_full=True) == Repair()


@pytest.mark.usefixtures("settled")
def test_a_lost_deletion_of_a_task_is_found_by_a_full_look(repository, studio):
    for task in (5, 6):
        repository.store.record_events([event(task, RESULT, task=task)])
        studio.annotate(body(task, RESULT, task=task))
    del studio.tasks[5]
    both = reconciler(repository, studio)
    assert both.reconcile(7, is_full=True) == Repair(held_back=1)
    assert both.reconcile(7, is_full=True) == Repair(deleted=1)
    assert live(repository) == {6}


@pytest.mark.usefixtures("settled")
def test_a_deletion_of_a_task_that_was_told_is_no_repair(repository, studio):
    repository.store.record_events([event(5, RESULT), task_deletion(5)])
    studio.add_task(6)
    assert reconciler(repository, studio).reconcile(7, is_full=True) == Repair()


@pytest.mark.usefixtures("settled")
def test_another_label_studio_deletes_nothing(repository, studio):
    repository.store.record_events([event(1, RESULT, task=5)])
    studio.add_task(999)
    for _ in range(3):
        strange = reconciler(repository, studio)
        assert strange.reconcile(7, is_full=True) == Repair(held_back=1)
    assert live(repository) == {1}


def test_what_is_not_committed_yet_is_not_deleted(repository, studio):
    studio.add_task(5, second=9)
    repository.store.record_events([event(1, RESULT)])
    assert reconciler(repository, studio).reconcile(7, is_full=True) == Repair()
    assert live(repository) == {1}


def test_a_deletion_is_not_undone(repository, studio):
    studio.annotate(body(1, RESULT, second=50))
    repository.store.record_events([event(1, RESULT), deletion(1)])
    assert reconciler(repository, studio).reconcile(7, is_full=True) == Repair()
    assert live(repository) == set()


def test_drafts_are_no_annotations(repository, studio):
    studio.add_task(5)
    reconciler(repository, studio).reconcile(7, is_full=True)
    assert repository.heads(7) == ()


@pytest.mark.parametrize("limit", [None, 3])
def test_every_page_is_read(repository, limit):
    studio = FakeStudio(page_limit=limit)
    for number in range(25):
        studio.annotate(body(number, RESULT, task=number, second=number))
    assert reconciler(repository, studio).reconcile(7, is_full=True) == Repair(recovered=25)


def test_only_changed_tasks_are_asked_for_again(repository, studio):
    for number in range(5):
        studio.annotate(body(number, RESULT, task=number, second=number))
    both = reconciler(repository, studio)
    both.reconcile(7, is_full=False)
    studio.annotate(body(3, [], task=3, second=1000))
    studio.asked.clear()
    assert both.reconcile(7, is_full=False) == Repair(recovered=1)
    detailed = [r.url.params["query"] for r in studio.asked if r.url.params.get("fields") == "all"]
    assert detailed == ['{"selectedItems":{"all":false,"included":[3]}}']
    assert repository.cursor(7).updated_at == START + timedelta(seconds=1000)


def test_a_busy_label_studio_is_left_alone_as_long_as_it_asks(repository, studio):
    studio.annotate(body(1, RESULT))
    studio.failures = [
        httpx.Response(429, headers={"Retry-After": "17"}, json={"detail": "throttled"}),
        httpx.Response(502, text="bad gateway"),
        httpx.ConnectError("refused"),
    ]
    patient = reconciler(repository, studio)
    assert patient.reconcile(7, is_full=True) == Repair(recovered=1)
    assert patient.naps == [17, 5, 30]


def test_patience_ends_and_the_next_round_finds_the_rest(repository, studio):
    studio.annotate(body(1, RESULT))
    studio.failures = [httpx.Response(503) for _ in range(4)]
    tired = reconciler(repository, studio)
    with pytest.raises(LabelStudioError, match="503"):
        tired.reconcile(7, is_full=True)
    assert repository.cursor(7) is None
    assert tired.reconcile(7, is_full=False) == Repair(recovered=1)


def test_a_refused_token_is_not_tried_again(repository, studio):
    studio.failures = [httpx.Response(401)]
    refused = reconciler(repository, studio)
    with pytest.raises(LabelStudioAuthError):
        refused.reconcile(7, is_full=True)
    assert refused.naps == []


def test_an_answer_with_other_tasks_deletes_nothing(repository, studio, monkeypatch):
    repository.store.record_events([event(1, RESULT, task=5), event(2, RESULT, task=6)])
    studio.annotate(body(2, RESULT, task=6))
    studio.add_task(4)
    page = studio._page

    def ignore_selection(params):
        return page({**params, "query": "{}", "page_size": "100"})

    monkeypatch.setattr(studio, "_page", ignore_selection)
    monkeypatch.setattr(module, "_GRACE_US", -1)
    studio.annotate(body(3, RESULT, task=8))
    with pytest.raises(LabelStudioError, match="as well"):
        reconciler(repository, studio, pauses_s=()).reconcile(7, is_full=True)
    assert live(repository) == {1, 2}


def test_a_slow_journal_is_tried_again(repository, studio, monkeypatch):
    studio.annotate(body(1, RESULT))
    record, calls = repository.store.record_events, []

    def busy_once(events):
        calls.append(events)
        if len(calls) == 1:
            raise BusyError("on purpose", retry_after_s=1)
        return record(events)

    monkeypatch.setattr(repository.store, "record_events", busy_once)
    assert reconciler(repository, studio).reconcile(7, is_full=True) == Repair(recovered=1)


def test_a_task_that_cannot_be_read_leaves_the_others(repository, studio):
    studio.annotate(body(1, RESULT, task=5))
    studio.annotate(body(2, RESULT, task=6))
    studio.tasks[5]["annotations"][0]["updated_at"] = "yesterday"
    studio.tasks[5]["updated_at"] = studio.tasks[6]["updated_at"]
    assert reconciler(repository, studio).reconcile(7, is_full=True) == Repair(1, 0, 1)


PROJECTS = itertools.count(100)
STEP = st.tuples(st.sampled_from(["annotate", "skip", "delete"]), st.integers(1, 4), st.booleans())


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEP, max_size=12), looks=st.sets(st.integers(0, 11)))
@pytest.mark.usefixtures("settled")
def test_whatever_is_lost_is_found(repository, steps, looks):
    project = next(PROJECTS)
    studio = FakeStudio(project)
    studio.add_task(100)
    both, gone = reconciler(repository, studio), set()
    for second, (what, number, is_lost) in enumerate(steps, start=1):
        if number in gone:
            continue
        if what == "delete":
            studio.unannotate(number, second=second)
            gone.add(number)
            events = [deletion(number, project=project)]
        else:
            skipped = what == "skip"
            options = {"task": number % 2, "second": second, "skipped": skipped, "project": project}
            result = [] if skipped else RESULT
            studio.annotate(body(number, result, **options))
            events = [event(number, result, **options)]
        if not is_lost:
            repository.store.record_events(events)
        if second in looks:
            both.reconcile(project, is_full=False)
    both.reconcile(project, is_full=True, is_approved=True)
    theirs = {
        (said["id"], said["updated_at"])
        for task in studio.tasks.values()
        for said in task["annotations"]
    }
    ours = {
        (head.annotation_id, from_us(head.version_us).isoformat().replace("+00:00", "Z"))
        for head in repository.heads(project)
        if not head.is_deleted
    }
    assert ours == theirs
    assert both.reconcile(project, is_full=True) == Repair()


def test_the_watch_looks_at_start_and_tells_how_it_ended(repository, studio):
    studio.annotate(body(2, RESULT, task=6))
    repository.store.record_events([event(1, RESULT, task=8, project=8)])
    repository.store.record_events([event(1, RESULT, task=5)])
    ended, both = {}, threading.Event()

    def on_done(project_id, repair):
        ended[project_id] = repair
        if len(ended) == 2:
            both.set()

    watch = ReconcileWatch(
        repository, studio.client(), interval_s=3600, pauses_s=(), on_done=on_done
    )
    watch.start()
    assert both.wait(30)
    watch.close()
    assert ended == {7: Repair(recovered=1), 8: None}  # Label Studio does not know project 8


def test_what_was_found_is_counted(repository, studio):
    studio.annotate(body(2, RESULT, task=6))
    repository.store.record_events([event(1, RESULT, task=5)])
    metrics = Metrics()
    watch = build_reconcile_watch(repository.store, metrics, studio.client())
    watch.round()
    studio.failures = [httpx.Response(401)]
    watch.round()
    text = metrics.text().decode()
    assert 'calico_reconcile_recovered_total{what="change"} 1.0' in text
    assert 'calico_reconcile_recovered_total{what="deletion"} 0.0' in text
    assert "calico_reconcile_failures_total 1.0" in text
    assert "calico_reconciled_timestamp_seconds 1." in text
