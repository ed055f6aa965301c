"""The gate's proof, with a model that counts instead of learning: who is shown what."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.learning.schedule import RunState
from backend.learning.supervision import true_parts
from backend.storage.store import open_store
from research.bench.gate import is_right, sum_up
from research.bench.gate_trials import Batch, DrawnTasks, Poison, Sizes, Trial, run_trials
from tests.unit.learning.fake_updater import FakeUpdater

SIZES = Sizes(first=2, then=2)


class Listening(FakeUpdater):
    """Keeps what it is taught."""

    def __init__(self, **options):
        super().__init__(**options)
        self.taught = []

    def update(self, new, earlier, **options):
        self.taught.append({task.correction.task.id: task.correction for task in new})
        return super().update(new, earlier, **options)


def trials(tmp_path, updater, poison=Poison.BOTH):
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite3'}", commit_timeout_s=30)
    images, begun = DrawnTasks(), []
    try:
        found = run_trials(
            store,
            tmp_path / "adapters",
            images,
            updater,
            seed=3,
            poison=poison,
            sizes=SIZES,
            on_run=begun.append,
        )
        found = list(found)
    finally:
        store.close()
    assert begun == list(Batch) == [trial.batch for trial in found]
    return found, images


def test_poison_is_withdrawn_before_the_same_tasks_come_with_their_truth(tmp_path: Path):
    updater = Listening(gain=5)
    found, images = trials(tmp_path, updater)
    assert [trial.state for trial in found] == [RunState.PUBLISHED] * 3
    first, poisoned, good = updater.taught
    assert len(first) == len(good) == 2
    assert poisoned.keys() == good.keys()
    assert not first.keys() & good.keys()
    for task_id in good:
        truth = images.groups[task_id].parts
        taught = {(p.image_index, p.kind, p.label): p.mask for p in true_parts(good[task_id])}
        assert all(
            (taught[part.image_index, part.kind, part.label] == part.mask).all() for part in truth
        )
    # What was published of the poison was taken back: the good batch goes on from the first.
    *_, last = (call for call in updater.calls if call[0] == "update")
    assert last[1:] == (tuple(good), tuple(first), True)


@pytest.mark.parametrize("poison", Poison)
def test_a_poison_spoils_what_it_says(tmp_path: Path, poison: Poison):
    updater = Listening(gain=5)
    _, images = trials(tmp_path, updater, poison)
    _, bad, good = updater.taught
    said = [
        sorted(
            (p.image_index, p.label, int(p.mask.sum())) for c in one.values() for p in true_parts(c)
        )
        for one in (bad, good)
    ]
    assert said[0] != said[1]
    # Names go astray or stay; none is new.
    drawn = {part.label for labeled in images.groups.values() for part in labeled.parts}
    assert {label for one in said for _, label, _ in one} <= drawn


def test_nineteen_of_twenty_must_be_right():
    def made(rejected, accepted):
        counts = {Batch.POISONED: (RunState.REJECTED, rejected)}
        counts |= dict.fromkeys((Batch.FIRST, Batch.GOOD), (RunState.PUBLISHED, accepted))
        return [
            Trial(seed, batch, state if seed < count else RunState.FAILED, "", {}, 1.0)
            for batch, (state, count) in counts.items()
            for seed in range(20)
        ]

    assert sum_up(made(19, 20)) == {
        "seeds": 20,
        "poisoned_rejected": 19,
        "good_accepted": 20,
        "first_accepted": 20,
    }
    assert is_right(sum_up(made(19, 19)))
    assert not is_right(sum_up(made(18, 20)))
    assert not is_right(sum_up(made(20, 18)))


@pytest.mark.slow
def test_the_real_model_refuses_poison_and_takes_what_is_good(tmp_path: Path):
    from typer.testing import CliRunner

    from backend.cli import command_tree

    words = ["bench", "gate", "--seeds", "1"]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
