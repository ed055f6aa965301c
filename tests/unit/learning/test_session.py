"""One run from corrections to a decision, and the trainer that starts runs."""

from __future__ import annotations

import json
import threading

import pytest

from backend.errors import LabelStudioError
from backend.learning import schedule, training_material
from backend.learning.gate import CorrectionAgreement
from backend.learning.schedule import Cause, RunState, is_held_out
from backend.learning.training_runs import RunRepository
from backend.storage.versions import VersionStatus
from tests.unit.learning.annotated import box, results
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401
from tests.unit.learning.fake_updater import FakeUpdater
from tests.unit.learning.school import HELD_OUT, PROJECT, REGIONS, TRAINED, School


@pytest.fixture
def school(tmp_path, database_url):  # noqa: F811
    made = School(tmp_path, url=database_url)
    yield made
    made.store.close()


@pytest.fixture
def _kept_from_the_first(monkeypatch):
    """A share of the corrections is kept for testing from the first one on."""
    monkeypatch.setattr(schedule, "LEARNED_FIRST", 0)


@pytest.mark.usefixtures("_kept_from_the_first")
def test_enough_corrections_become_a_version(school):
    school.correct(*TRAINED[:2])
    assert school.train() == 0
    school.correct(TRAINED[2], *HELD_OUT[:2])
    assert school.train() == 1
    version = school.current
    assert (version.corrections, version.parent_id) == (3, None)
    assert version.gate["held_out"] == {"mIoU": [40, 55], "Recall": [40, 55], "groups": 2}
    assert (school.last.state, school.last.cause) == (RunState.PUBLISHED, Cause.COUNT)
    assert school.train() == 0


@pytest.mark.usefixtures("_kept_from_the_first")
def test_held_out_tasks_are_measured_and_never_trained_on(school):
    school.correct(*TRAINED[:4], *HELD_OUT[:3])
    school.train()
    school.correct(*TRAINED[4:8], *HELD_OUT[3:4])
    school.train()
    assert school.updater.updates == [
        (tuple(TRAINED[:4]), (), False),
        (tuple(TRAINED[4:8]), tuple(TRAINED[:4]), True),
    ]
    measured = [call[2] for call in school.updater.calls if call[0] == "measure"]
    assert [set(tasks) for tasks in measured[::2]] == [
        set(HELD_OUT[:3]),
        set(TRAINED[:4]),
        set(HELD_OUT[:4]),
        set(TRAINED[:4]),
        set(TRAINED[4:8]),
    ]
    assert measured[::2] == measured[1::2]


def test_the_next_version_goes_on_from_the_last(school):
    school.correct(*TRAINED[:3])
    school.train()
    first = school.current
    assert first.gate["provisional"]
    school.correct(*TRAINED[3:6])
    school.train()
    assert school.current.parent_id == first.id
    assert school.versions.find(first.id).status is VersionStatus.RETIRED


def test_more_than_one_run_can_take_is_learned_in_several(school, monkeypatch):
    monkeypatch.setattr(training_material, "MOST_NEW", 4)
    school.correct(*TRAINED[:10])
    assert [school.train() for _ in range(4)] == [1, 1, 0, 0]
    school.correct(TRAINED[10])
    assert school.train() == 1
    updates = [new for new, _, _ in school.updater.updates]
    assert updates == [tuple(TRAINED[:4]), tuple(TRAINED[4:8]), tuple(TRAINED[8:11])]
    assert school.current.corrections == 11


def test_a_corrected_correction_is_learned_again(school):
    school.correct(*TRAINED[:3])
    school.train()
    school.correct(TRAINED[0], second=9)
    school.runs.request(PROJECT)
    assert school.train() == 1
    assert school.updater.updates[-1][:2] == ((TRAINED[0],), tuple(TRAINED[1:3]))


@pytest.mark.parametrize(
    ("updater", "word"),
    [
        (FakeUpdater(gain=-4), "learned nothing of the new corrections"),
        (FakeUpdater(broken=True), "wrong shape or values"),
    ],
)
def test_a_bad_candidate_is_rejected_with_the_reason(school, updater, word):
    school.correct(*TRAINED[:3])
    school.train()
    good = school.current
    school.updater = updater
    school.trainer = school.new_trainer()
    school.correct(*TRAINED[3:6])
    assert school.train() == 1
    assert school.current == good
    assert school.last.state is RunState.REJECTED
    assert word in school.versions.find(school.last.adapter_id).reason
    assert school.train() == 0


def test_what_the_base_forgets_is_shown_and_vetoes_nothing(school):
    school.updater.forgets = 9
    school.correct(*TRAINED[:3])
    school.train()
    assert school.current.gate["probe"]["mIoU"] == [70, 43]


def test_corrections_that_contradict_each_other_are_refused_and_said(school):
    school.updater.agrees = CorrectionAgreement(0.01, 20)
    school.correct(*TRAINED[:3])
    school.train()
    (refused,) = school.versions.all()
    assert (refused.status, school.current) == (VersionStatus.REJECTED, None)
    assert "only 1 in 100" in refused.reason
    assert refused.gate["agreement"] == {"new": 1.0, "regions": 20}


def test_what_was_rejected_is_learned_with_what_comes_later(school):
    school.updater.gain = -5
    school.correct(*TRAINED[:3])
    school.train()
    school.updater.gain = 2
    school.correct(*TRAINED[3:6])
    school.train()
    assert school.updater.updates[-1][0] == tuple(TRAINED[:6])
    assert school.current.corrections == 6


def test_the_button_and_a_wish_train_at_once(school):
    school.correct(TRAINED[0])
    assert school.train() == 0
    school.press_button()
    assert school.train() == 1
    assert school.last.cause is Cause.BUTTON
    school.correct(TRAINED[1])
    school.runs.request(PROJECT)
    assert school.train() == 1
    assert school.last.cause is Cause.REQUEST


def test_a_failure_is_kept_and_tried_again(school):
    school.correct(*TRAINED[:3])

    def fail(*_arguments, **_options):
        raise MemoryError("no more")

    healthy, school.updater.update = school.updater.update, fail
    assert school.train() == 1
    assert (school.last.state, school.last.error) == (RunState.FAILED, "MemoryError: no more")
    school.updater.update = healthy
    assert school.train() == 1
    assert (school.last.state, school.last.cause) == (RunState.PUBLISHED, Cause.RETRY)


def test_stopping_ends_the_run_and_the_next_trainer_repeats_it(school):
    school.correct(*TRAINED[:3])
    school.updater.gate.clear()
    thread = threading.Thread(target=school.trainer.run, args=(school.stop,))
    thread.start()
    assert school.updater.is_learning.wait(20)
    school.stop.set()
    thread.join(20)
    assert school.last.state is RunState.STOPPED
    assert school.versions.all() == ()
    school.stop.clear()
    school.updater.gate.set()
    assert school.train() == 1
    assert school.current is not None


def test_a_run_that_died_after_learning_goes_on_at_the_gate(school):
    school.correct(*TRAINED[:3])

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    school.updater.probe, healthy = die, school.updater.probe
    with pytest.raises(Killed):
        school.train()
    school.updater.probe = healthy
    (candidate,) = school.versions.all()
    assert candidate.status is VersionStatus.CANDIDATE
    school.runs = RunRepository(school.store, owner="elsewhere/9", lease_s=0)
    lost = RunRepository(school.store, owner=school.last.owner, lease_s=0)
    lost.renew(school.last.id)
    school.trainer = school.new_trainer()
    assert school.train() == 1
    assert school.current.id == candidate.id
    assert sum(call[0] == "update" for call in school.updater.calls) == 1


def test_a_left_candidate_of_other_material_is_not_judged(school):
    school.correct(*TRAINED[:3])
    school.updater.probe = lambda *_: 1 / 0
    school.train()
    assert school.last.state is RunState.FAILED
    (left,) = school.versions.all()
    school.updater.probe = FakeUpdater().probe
    school.correct(TRAINED[3])
    assert school.train() == 1
    assert school.versions.find(left.id).status is VersionStatus.REJECTED
    assert school.current.corrections == 4


def test_a_lost_lease_publishes_nothing(school):
    school.correct(*TRAINED[:3])
    school.updater.gate.clear()
    thread = threading.Thread(target=school.train)
    thread.start()
    assert school.updater.is_learning.wait(20)
    run = school.last
    RunRepository(school.store, owner=run.owner).end(run.id, RunState.ABANDONED)
    thread.join(20)
    assert school.versions.all() == ()
    assert school.last.state is RunState.ABANDONED


def test_files_of_rejected_versions_go_with_the_next_look(school):
    school.updater.gain = -5
    school.correct(*TRAINED[:3])
    stop = school.stop
    thread = threading.Thread(target=school.trainer.run, args=(stop,), kwargs={"tick_s": 0.01})
    thread.start()
    deadline = threading.Event()
    while not (
        school.versions.all()
        and school.versions.all()[0].status is VersionStatus.REJECTED
        and not school.versions.path(school.versions.all()[0]).exists()
    ):
        assert not deadline.wait(0.01)
        assert thread.is_alive()
    stop.set()
    thread.join(20)


def test_trouble_in_one_project_does_not_hold_up_the_others(school):
    school.correct(*TRAINED[:3])
    theirs = [task for task in TRAINED[3:] if not is_held_out(8, task)]
    school.correct(*theirs[:3], project=8)
    derive = school.derivation.derive

    def broken(project_id):
        if project_id == PROJECT:
            raise ValueError("a mask nobody thought of")
        return derive(project_id)

    school.derivation.derive = broken
    assert school.train() == 1
    assert school.versions.current(8) is not None
    school.derivation.derive = lambda project_id: 1 / 0
    school.trainer = school.new_trainer()
    with pytest.raises(ZeroDivisionError):
        school.train()


def test_a_damaged_version_is_not_learned_on(school):
    school.correct(*TRAINED[:3])
    school.train()
    first = school.current
    (school.versions.path(first) / "learned.json").write_text("[]")
    school.correct(*TRAINED[3:6])
    assert school.train() == 1
    assert school.versions.find(first.id).status is VersionStatus.QUARANTINED
    assert school.current.parent_id is None
    assert school.updater.updates[-1] == (tuple(TRAINED[:6]), (), False)


def test_a_version_that_is_not_here_is_waited_for_and_not_given_up(school):
    school.correct(*TRAINED[:3])
    school.train()
    first = school.current
    place = school.versions.path(first)
    hidden = place.with_name("hidden")
    place.rename(hidden)
    school.correct(*TRAINED[3:6])
    school.train()
    assert school.last.state is RunState.FAILED
    assert "FilesUnavailableError" in school.last.error
    assert school.current.id == first.id
    assert school.versions.find(first.id).status is VersionStatus.CURRENT
    hidden.rename(place)
    school.trainer = school.new_trainer()
    assert school.train() == 1
    assert school.current.parent_id == first.id


def test_an_adapter_of_other_weights_is_replaced_by_one_that_learns_everything(school):
    school.correct(*TRAINED[:3])
    school.train()
    old = school.current
    school.updater = FakeUpdater()
    school.updater.base = "c" * 64
    school.trainer = school.new_trainer()
    school.correct(*TRAINED[3:6])
    assert school.train() == 1
    assert school.updater.updates[0] == (tuple(TRAINED[:6]), (), False)
    assert (school.current.parent_id, school.current.base) == (old.id, "c" * 64)


def test_a_project_goes_on_from_a_named_one(tmp_path):
    school = School(tmp_path)
    school.correct(*TRAINED[3:9], project=8)
    school.train()
    theirs = school.versions.current(8)
    school.start_from = 8
    school.trainer = school.new_trainer()
    school.correct(*TRAINED[:3], second=5)
    assert school.train() == 1
    assert school.current.parent_id == theirs.id
    assert school.versions.current(8) == theirs
    assert school.updater.updates[-1][2]
    school.store.close()


def test_label_studio_out_of_reach_does_not_hold_training_up(tmp_path):
    class Deaf:
        def reconcile(self, project_id, *, is_full):
            raise LabelStudioError("not at home")

    school = School(tmp_path, reconciler=Deaf())
    school.correct(*TRAINED[:3])
    assert school.train() == 1
    assert school.current is not None
    school.store.close()


def test_lost_events_are_looked_for_before_training(tmp_path):
    class Finding:
        def reconcile(self, project_id, *, is_full):
            assert is_full
            school.correct(TRAINED[5])

    school = School(tmp_path, reconciler=Finding())
    school.correct(*TRAINED[:3])
    assert school.train() == 1
    assert school.updater.updates[0][0] == (*TRAINED[:3], TRAINED[5])
    school.store.close()


def test_a_version_annotators_reject_is_taken_back_by_itself(school):
    answer = b'{"score": 0.5, "regions": %s}'
    predicted = json.dumps(REGIONS).encode()

    def answered(version, tasks, drawn):
        for task in tasks:
            key = f"{version}/{task}"
            school.store.keep_prediction(
                key, answer % predicted, project_id=PROJECT, task_id=task, version=version
            )
        school.correct(*tasks, drawn=drawn)

    answered("calico-tiny-1234", TRAINED[:3], REGIONS)
    school.train()
    version = school.current
    worse = results(("a", box(0, 0, 5, 5), "hinge"), ("b", box(0, 0, 5, 5), "hinge"))
    answered(version.id, TRAINED[3:6], worse)
    school.updater.gain = -5
    school.train()
    assert school.current is None
    assert "annotators accept 0% of its regions over 3 tasks, 100%" in (
        school.versions.find(version.id).reason
    )
