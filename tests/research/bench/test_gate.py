"""The gate's proof, with a model that counts instead of learning: who is shown what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.learning.schedule import RunState
from backend.learning.supervision import true_parts
from backend.storage.store import open_store
from calico_model.data.coco_parts import write_coco
from calico_model.data.synthetic import SceneSplit
from calico_model.errors import InvalidConfigError
from research.bench.gate import is_right, project_groups, sum_up, write_trials
from research.bench.gate_trials import Batch, Poison, Sizes, TaskImages, Trial, run_trials
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
    images, begun = TaskImages(), []
    try:
        found = run_trials(
            store,
            tmp_path / "adapters",
            images,
            updater,
            project_groups(None, None, None, least=4)(3),
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
            Trial(seed, "cars", batch, state if seed < count else RunState.FAILED, "", {}, 1.0)
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


def test_a_project_takes_the_next_set_with_pairs_of_its_own(tmp_path: Path):
    drawn = project_groups(SceneSplit.UNSEEN_CATEGORY, None, None, least=1)(0)
    assert drawn.source == "unseen-category"
    assert drawn.groups[0].group.ids[0].startswith("unseen-category-0-0")
    for name, count in (("boats", 3), ("cars", 2)):
        write_coco(drawn.groups[:count], tmp_path / name)
    project = project_groups(None, tmp_path, None, least=2)
    opened = [project(seed) for seed in range(5)]
    assert [(one.seed, one.source) for one in opened] == [
        (0, "boats"),
        (1, "cars"),
        (2, "boats"),
        (3, "cars"),
        (4, "boats"),
    ]
    pairs = [[labeled.group.ids for labeled in one.groups] for one in opened]
    assert [len(some) for some in pairs] == [3, 2, 3, 2, 3]
    assert pairs[0] != pairs[2] != pairs[4]
    with pytest.raises(InvalidConfigError, match=r"--sets: expected 3 pairs .* got 2 in .*cars"):
        project_groups(None, tmp_path, ["cars"], least=3)(0)


def test_options_that_do_not_go_together_are_named(tmp_path: Path):
    with pytest.raises(InvalidConfigError, match="--only: expected --sets beside it"):
        project_groups(None, None, ["cars"], least=1)
    with pytest.raises(InvalidConfigError, match="--split: expected either --split or --sets"):
        project_groups(SceneSplit.SEEN, tmp_path, None, least=1)


def test_trials_are_written_with_their_sums(tmp_path: Path):
    held_out = {"held_out": {"mIoU": [1.0, 2.0]}}
    made = [
        Trial(7, "cars", Batch.FIRST, RunState.PUBLISHED, "better", held_out, 1.26),
        Trial(7, "cars", Batch.POISONED, RunState.PUBLISHED, "better", {}, 2.0),
    ]
    write_trials(tmp_path / "trials.json", made[:1])
    write_trials(tmp_path / "trials.json", made)
    written = json.loads((tmp_path / "trials.json").read_text())
    assert written["seeds"] == written["first_accepted"] == 1
    assert written["poisoned_rejected"] == written["good_accepted"] == 0
    first, poisoned = written["trials"]
    assert first == {
        "seed": 7,
        "source": "cars",
        "batch": "first",
        "state": "published",
        "reason": "better",
        "gate": held_out,
        "seconds": 1.3,
    }
    assert poisoned["batch"] == "poisoned"


@pytest.mark.slow
def test_the_real_model_refuses_poison_and_takes_what_is_good(tmp_path: Path):
    from typer.testing import CliRunner

    from backend.cli import command_tree

    words = ["bench", "gate", "--seeds", "1"]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
