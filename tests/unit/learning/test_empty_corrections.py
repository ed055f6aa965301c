"""Submissions that hold nothing to learn from: training ends with a reason, once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.learning.schedule import RunState, SchedulePolicy
from backend.learning.session import TrainingSession
from backend.learning.supervision import known_kinds
from backend.learning.training_runs import RunRepository
from backend.learning.updater import BaseGroups, OnlineUpdater
from backend.learning.worker import Trainer
from backend.storage.store import open_store
from backend.storage.versions import Versions
from calico_model.errors import InvalidConfigError
from calico_model.predictor import Predictor, load_predictor
from calico_model.training.online.update import UpdatePlan
from calico_model.types import RegionKind
from tests.unit.learning.annotated import box, event, region, results
from tests.unit.learning.test_updater import PROJECT, SIZE, Images, corrected, make

LID, RIM = box(5, 5, 40, 40, size=SIZE), box(45, 5, 60, 60, size=SIZE)
NAMELESS = [region("a", LID, label=None), region("b", RIM, label="", kind=None)]
OBJECT = [region("a", LID, label=None, kind=RegionKind.COMMON_OBJECT)]
NAMED = [region("a", LID, label="lid")]
EMPTY = {
    "no region": ((), ()),
    "masks without a name": ((), NAMELESS),
    "an object without a name": ((), OBJECT),
    "a nameless prediction removed": (NAMELESS, ()),
    "a nameless prediction kept": (NAMELESS, NAMELESS),
    "a name taken away": (NAMED, [region("a", LID, label=None)]),
}


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return load_predictor(threads=1)


def updater_of(predictor: Predictor, folder: Path) -> OnlineUpdater:
    return OnlineUpdater(
        predictor,
        "b" * 64,
        Images(),
        folder,
        feature_bytes=2**30,
        base_groups=BaseGroups(),
        plan=UpdatePlan(seconds=0.5, views=0),
    )


def learn(updater, *tasks):
    return updater.update(tasks, (), start=None, on_progress=lambda *_: None, stop=lambda: False)


@pytest.mark.parametrize(("before", "after"), EMPTY.values(), ids=EMPTY.keys())
def test_what_names_nothing_is_no_ground_to_learn_from(tmp_path, before, after):
    task = corrected(1, before, after)
    assert known_kinds(task.correction) == frozenset()
    with pytest.raises(InvalidConfigError, match="new: expected .* a named region"):
        learn(make(tmp_path, Images(), probe=0), task)


@pytest.mark.parametrize(("before", "after"), EMPTY.values(), ids=EMPTY.keys())
def test_the_shipped_model_refuses_them_as_well(shipped, tmp_path, before, after):
    with pytest.raises(InvalidConfigError, match="new: expected .* a named region"):
        learn(updater_of(shipped, tmp_path), corrected(1, before, after))


def test_what_was_only_removed_is_learned_from_without_any_row(shipped, tmp_path):
    write = learn(updater_of(shipped, tmp_path), corrected(1, NAMED, ()))
    write(tmp_path / "adapter")
    assert updater_of(shipped, tmp_path).measure(tmp_path / "adapter", []) is None
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_empty_submissions_beside_others_change_nothing(tmp_path):
    updater = make(tmp_path, Images(), probe=0)
    empty = [corrected(n, *pair) for n, pair in enumerate(EMPTY.values(), start=2)]
    write = learn(updater, *empty, corrected(1, (), NAMED))
    write(tmp_path / "adapter")
    assert updater.measure(tmp_path / "adapter", [corrected(1, (), NAMED)]).groups == 1


@pytest.mark.parametrize(
    "drawn",
    [[], results(("a", LID, ""), ("b", RIM, "  ")), results(("a", LID, "", "common_object"))],
    ids=["no region", "masks without a name", "an object without a name"],
)
def test_eight_empty_submissions_end_one_run_with_the_reason(tmp_path, drawn):
    store = open_store(f"sqlite:///{tmp_path / 'calico.sqlite3'}", commit_timeout_s=30)
    repository, runs = CorrectionRepository(store), RunRepository(store)
    derivation, versions = Derivation(repository), Versions(store, tmp_path / "adapters")
    updater = make(tmp_path, Images(), probe=0)

    def session():
        return TrainingSession(repository, derivation, None, versions, runs, updater)

    policy = SchedulePolicy(every=8, pause_s=0.0)
    trainer = Trainer(repository, derivation, versions, runs, session, policy=policy)
    store.record_events([event(100 + n, drawn, task=n, project=PROJECT) for n in range(1, 9)])

    assert [trainer.round(threading.Event()) for _ in range(3)] == [1, 0, 0]
    (run,) = runs.runs(PROJECT)
    assert run.state is RunState.REJECTED
    assert run.error == "nothing to learn from: no new correction has a region with a name"
    good = results(("a", LID, "lid"))
    store.record_events([event(200 + n, good, task=20 + n, project=PROJECT) for n in range(8)])
    assert trainer.round(threading.Event()) == 1
    assert runs.runs(PROJECT)[0].adapter_id is not None
    store.close()
