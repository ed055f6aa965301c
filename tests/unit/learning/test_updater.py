"""Corrections as a real model learns from them: features kept, targets placed, adapters whole."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import MediaUnavailableError
from backend.learning.correction import Correction, diff
from backend.learning.examples import region_targets
from backend.learning.supervision import known_kinds, true_parts
from backend.learning.training_material import CorrectedTask
from backend.learning.updater import BaseGroups, OnlineUpdater, renamed_names
from backend.types import Task
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.errors import CheckpointError, InvalidConfigError
from calico_model.modeling.model import Calico
from calico_model.predictor import Predictor
from calico_model.presets import small_tokenizer
from calico_model.training.online.update import UpdatePlan
from calico_model.types import ImageGroup, RegionKind, Supervision
from calico_model.vocabulary import Vocabulary
from tests.conftest import micro_config
from tests.unit.learning.annotated import START, box, region

PROJECT = 7
SIZE = (64, 64)
LID = box(5, 5, 40, 40, size=SIZE)
RIM = box(45, 5, 60, 60, size=SIZE)
KNOB = box(5, 45, 20, 60, size=SIZE)


def corrected(task, before, after, vocabulary=None):
    found = diff(before, after, vocabulary=vocabulary)
    correction = Correction(
        task=Task(task, PROJECT, (f"/{task}/a.png", f"/{task}/b.png")),
        annotation_id=task,
        annotator_id=1,
        updated_at=START,
        version=None,
        outcomes=found.outcomes,
        vocabulary=vocabulary,
    )
    return CorrectedTask(PROJECT, task, correction)


def regions():
    """A lid in both images, a rim in the first."""
    lids = [region(f"l{k}", LID, image=k, label="lid") for k in range(2)]
    return [*lids, region("r", RIM, kind=RegionKind.UNIQUE_PART, label="rim")]


class Images:
    """Noise of the right size; counts what was fetched."""

    def __init__(self):
        self.fetched = []

    def fetch_group(self, task):
        self.fetched.append(task.id)
        if task.id == 99:
            raise MediaUnavailableError("gone", field="data.images[0]")
        rng = np.random.default_rng(task.id)
        drawn = tuple(rng.integers(0, 255, (*SIZE, 3), np.uint8) for _ in range(2))
        return ImageGroup(drawn, ("a", "b"))


def make(folder, images, probe=1, **options):
    tokenizer = small_tokenizer()
    torch.manual_seed(3)
    model = Calico(micro_config(tokenizer.size))
    model.initialise()
    model.eval().requires_grad_(False)
    drawn = [
        labeled_group(draw_group(group_rng(Stream.EVALUATION, 4, n), size_px=64)) for n in range(2)
    ]
    plan = UpdatePlan(least_steps=2, steps_per_example=0.0, most_steps=2)
    return OnlineUpdater(
        Predictor(model, tokenizer, version="micro-1"),
        "b" * 64,
        images,
        folder / "features",
        feature_bytes=2**30,
        base_groups=BaseGroups(tuple(drawn[:1]), tuple(drawn[1 : 1 + probe])),
        plan=replace(plan, mix=replace(plan.mix, batch=3)),
        **options,
    )


def test_an_update_writes_an_adapter_that_can_be_measured_and_gone_on_from(tmp_path: Path):
    images = Images()
    updater = make(tmp_path, images)
    tasks = [corrected(task, (), regions()) for task in (1, 2)]
    shares = []
    write = updater.update(
        tasks[:1],
        (),
        start=None,
        on_progress=lambda share, eta: shares.append(share),
        stop=lambda: False,
    )
    write(tmp_path / "first")
    assert shares == [0.5, 1.0]
    before, after = (updater.measure(f, tasks[1:]) for f in (None, tmp_path / "first"))
    assert before.groups == after.groups == 1
    assert set(after.by_label) == {"lid", "rim"}
    assert updater.probe(None, tasks).groups == 1
    assert updater.probe(tmp_path / "first", tasks).groups == 1
    again = updater.update(
        tasks[1:],
        tasks[:1],
        start=tmp_path / "first",
        on_progress=lambda *_: None,
        stop=lambda: False,
    )
    again(tmp_path / "second")
    files = [(tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("first", "second")]
    assert files[0] != files[1]
    assert images.fetched == [1, 1, 2, 2]  # what is new is looked at in other views
    (tmp_path / "second" / "adapter_model.safetensors").write_bytes(files[0][:-8])
    with pytest.raises(CheckpointError, match="second"):
        updater.measure(tmp_path / "second", tasks)


def called(old, new):
    """The regions, with another label."""
    return [replace(one, label=new) if one.label == old else one for one in regions()]


def test_a_renamed_label_goes_on_with_what_was_learned_under_its_old_name(tmp_path: Path):
    updater = make(tmp_path, Images(), probe=0)

    def learn(tasks, folder, start=None):
        write = updater.update(
            tasks, (), start=start, on_progress=lambda *_: None, stop=lambda: False
        )
        write(tmp_path / folder)
        return json.loads((tmp_path / folder / "adapter_config.json").read_text())["labels"]

    # Words that the model cannot spell at once get rows of their own.
    tasks = [corrected(1, (), called("lid", "zoquvix"), Vocabulary(("zoquvix", "rim")))]
    assert learn(tasks, "first") == ["zoquvix"]
    vocabulary = Vocabulary(("vuxquopy", "rim"), {"zoquvix": "vuxquopy"})
    renamed = [corrected(1, (), called("lid", "vuxquopy"), vocabulary)]
    before, after = (updater.measure(tmp_path / "first", some) for some in (tasks, renamed))
    assert (after.miou, after.recall) == (before.miou, before.recall)
    assert after.by_label["vuxquopy"] == before.by_label["zoquvix"]
    assert learn(renamed, "second", tmp_path / "first") == ["vuxquopy"]


def test_only_a_name_that_no_region_has_any_more_was_renamed():
    old, new = Vocabulary(("lid", "rim")), Vocabulary(("cover", "rim"), {"lid": "cover"})
    cover = called("lid", "cover")
    assert renamed_names([corrected(1, (), cover, new)]) == {"lid": "cover"}
    assert renamed_names([corrected(1, (), cover, new), corrected(2, (), regions()[2:], old)]) == {
        "lid": "cover"
    }
    assert renamed_names([corrected(1, (), cover, new), corrected(2, (), regions(), old)]) == {}
    assert renamed_names([corrected(1, (), regions()[2:], new)]) == {}
    assert renamed_names([corrected(1, (), cover)]) == {}


def test_features_outlive_the_process_and_stopping_gives_nothing(tmp_path: Path):
    tasks = [corrected(1, (), regions())]
    first = make(tmp_path, Images(), probe=0)
    assert first.probe(None, tasks) is None
    expected = first.measure(None, tasks)
    second = make(tmp_path, Images(), probe=0)

    def fail(_group):
        raise AssertionError("encoded again")

    second._predictor.encode = fail
    assert second.measure(None, tasks) == expected
    stopped = second.update(tasks, (), start=None, on_progress=lambda *_: None, stop=lambda: True)
    assert stopped is None


def test_seconds_of_learning_are_those_of_the_clock(tmp_path: Path):
    hours = itertools.count(step=3600.0)
    updater = make(tmp_path, Images(), probe=0, clock=lambda: next(hours))
    etas = []
    updater.update(
        [corrected(1, (), regions())],
        (),
        start=None,
        on_progress=lambda share, eta: etas.append(eta),
        stop=lambda: False,
    )
    assert etas[0] >= 3600.0  # one of two steps took an hour
    assert etas[-1] == 0.0


def test_a_task_whose_images_are_gone_is_left_out(tmp_path: Path):
    updater = make(tmp_path, Images(), probe=0)
    gone = corrected(99, (), regions())
    assert updater.measure(None, [gone]) is None
    assert updater.measure(None, [gone, corrected(1, (), regions())]).groups == 1
    with pytest.raises(InvalidConfigError, match="nothing|none"):
        updater.update([gone], (), start=None, on_progress=lambda *_: None, stop=lambda: False)


def test_each_region_teaches_what_was_corrected():
    before = [*regions(), region("k", KNOB, label="knob")]
    lid, other, rim = regions()
    after = [
        replace(lid, label="cover"),
        other,
        region("r", KNOB, kind=RegionKind.UNIQUE_PART, label="rim"),
    ]
    correction = corrected(1, before, after).correction
    found = {
        (one.region.image_index, one.region.label): one.supervision
        for one in region_targets(correction, true_parts(correction))
    }
    assert found == {
        (0, "cover"): Supervision.TEXT,
        (1, "lid"): Supervision.REHEARSAL,
        (0, "rim"): Supervision.MASK,
        (0, "knob"): Supervision.ABSENCE,
    }


def test_a_project_of_parts_says_nothing_about_objects():
    parts = {RegionKind.COMMON_PART, RegionKind.UNIQUE_PART}
    assert known_kinds(corrected(1, (), regions()).correction) == parts
    whole = region("o", LID, kind=RegionKind.COMMON_OBJECT, label="box")
    assert known_kinds(corrected(1, (), [whole]).correction) == {RegionKind.COMMON_OBJECT}
    unnamed = region("u", LID, kind=None, label="lid")
    assert known_kinds(corrected(1, [unnamed, whole], ()).correction) == set(RegionKind)
