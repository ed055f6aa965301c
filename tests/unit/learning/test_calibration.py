"""What annotators keep and reject bends the scores of the versions that come after."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sqlalchemy import update

from backend.learning.calibration import JudgedRegion, calibrate_project, judged_regions
from backend.storage.adapter_files import folder_digest
from backend.storage.tables import adapter
from calico_model.inference.confidence import Calibration, read_calibration, write_beside
from tests.unit.learning.annotated import box, event, results
from tests.unit.learning.school import PROJECT, TRAINED, School

LID, RIM = box(10, 10, 30, 40), box(0, 50, 5, 60)


@pytest.fixture
def school(tmp_path):
    made = School(tmp_path)
    yield made
    made.store.close()


def scored(*drawn, score):
    """A predicted result list whose shapes carry a score."""
    return [r | ({"score": score} if r["type"] == "brush" else {}) for r in results(*drawn)]


def correct(school, task, predicted, left, version="base-1"):
    body = b'{"score": 0.5, "regions": %s}' % json.dumps(predicted).encode()
    school.store.keep_prediction(
        f"k{task}", body, project_id=PROJECT, task_id=task, version=version
    )
    school.store.record_events([event(100 + task, left, task=task)])
    school.derivation.derive(PROJECT)


def test_a_region_is_right_if_it_was_kept_with_its_name_and_half_its_mask(school):
    lid, rim = ("a", LID, "lid"), ("b", RIM, "rim")
    less = ("a", box(10, 10, 30, 30), "lid")  # IoU 2/3
    little = ("a", box(10, 10, 30, 20), "lid")  # IoU 1/3
    for task, left in enumerate(
        [(lid, rim), (less, rim), (little, rim), (("a", LID, "cap"), rim), (rim,)], start=1
    ):
        correct(school, task, scored(lid, rim, score=0.75), results(*left))
    found = judged_regions(school.store, PROJECT)
    assert {(one.version, one.score) for one in found} == {("base-1", 0.75)}
    assert sorted(one.is_right for one in found) == [False] * 3 + [True] * 7


def test_a_region_of_another_kind_is_right_for_its_name_and_mask_were_kept(school):
    correct(
        school,
        1,
        scored(("a", LID, "lid"), score=0.75),
        results(("a", LID, "lid", "unique_part")),
    )
    (judged,) = judged_regions(school.store, PROJECT)
    assert judged.is_right


@pytest.mark.parametrize(
    ("drawn", "is_right"),
    [
        (("z", box(10, 10, 30, 30), "lid"), True),  # IoU 2/3
        (("z", box(10, 10, 30, 20), "lid"), False),  # IoU 1/3
        (("z", LID, "cap"), False),
    ],
)
def test_a_region_deleted_and_drawn_again_is_right_if_name_and_place_are_the_same(
    school, drawn, is_right
):
    rim = ("b", RIM, "rim")
    correct(school, 1, scored(("a", LID, "lid"), rim, score=0.75), results(drawn, rim))
    found = judged_regions(school.store, PROJECT)
    assert sorted(one.is_right for one in found) == sorted([True, is_right])


def test_regions_without_a_score_or_a_prediction_say_nothing(school):
    correct(school, 1, results(("a", LID, "lid")), results(("a", LID, "lid")))
    school.correct(2)
    assert judged_regions(school.store, PROJECT) == ()
    assert calibrate_project(school.versions, ()) == Calibration()


def test_a_version_takes_the_calibration_of_its_project_along(school):
    for task in TRAINED[:12]:  # predicted with 0.9, and called something else
        correct(school, task, scored(("a", LID, "lid"), score=0.9), results(("a", LID, "cap")))
    assert school.train() == 1
    folder = school.versions.verify(school.current)
    found = read_calibration(folder)
    assert found.outcomes == 12
    assert found.score(0.9) < 0.8


def test_a_project_without_history_changes_no_score(school):
    school.correct(*TRAINED[:3])
    school.train()
    folder = school.versions.verify(school.current)
    assert read_calibration(folder).is_identity


def test_what_a_version_bent_is_undone_before_the_next_fit(school):
    school.correct(*TRAINED[:3])
    school.train()
    version = school.current
    folder = school.versions.path(version)
    write_beside(folder, Calibration(0.5, -1.0, 30))
    digest, _ = folder_digest(folder)  # as if it had been registered with this file
    registered = update(adapter).where(adapter.c.id == version.id)
    school.store.write(lambda rows: rows.execute(registered.values(sha256=digest)), timeout_s=30)
    rng = np.random.default_rng(0)
    plain = rng.random(4000) * 0.98 + 0.01
    bent = Calibration(0.5, -1.0, 30)
    right = rng.random(4000) < plain
    judged = [
        JudgedRegion(version.id, bent.score(score), bool(kept))
        for score, kept in zip(plain, right, strict=True)
    ]
    found = calibrate_project(school.versions, judged)
    assert (found.slope, found.shift) == pytest.approx((1.0, 0.0), abs=0.1)
