"""Journal to corrections: captured annotations, several annotators, any portions, any crash."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from backend.errors import LabelStudioError
from backend.label_studio.event import parse_events
from backend.learning.correction import RegionChange
from backend.learning.derivation import Derivation, Derived, StudioPredictions
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import Standing, StartingPoint
from backend.learning.supervision import training_targets
from calico_model.types import Supervision
from tests.unit.learning.annotated import body, box, deletion, event, results, task_deletion
from tests.unit.learning.fake_studio import FakeStudio

PAYLOADS = Path(__file__).parents[2] / "golden" / "payloads"
MASK, SMALLER, ELSEWHERE = box(10, 10, 30, 40), box(10, 10, 30, 30), box(0, 50, 5, 60)
PREDICTED = results(("a", MASK, "lid"), ("b", ELSEWHERE, "rim"))


class Predictions:
    """Label Studio's predictions by id; an exception is raised instead."""

    def __init__(self, **found):
        self.found = {int(name[1:]): value for name, value in found.items()}
        self.asked = []

    def find(self, prediction_id):
        self.asked.append(prediction_id)
        found = self.found.get(prediction_id)
        if isinstance(found, Exception):
            raise found
        return found


def predicted(result, prediction_id=9, version="v1"):
    return StartingPoint(prediction_id, version, json.dumps(result).encode())


def keep(store, result, *, task=5, version="v1", key="k"):
    """Keeps an answer as the prediction service does."""
    answer = {"score": 0.5, "regions": result}
    encoded = msgspec.json.encode(answer)
    store.keep_prediction(key, encoded, project_id=7, task_id=task, version=version)
    store.record_events([deletion(10**6)])  # returns after the commit


def changes(repository, project=7, task=5):
    return {row.region_id: row.change for row in repository.outcomes(project, task)}


def derive(repository, source=None, project=7):
    return Derivation(repository, source).derive(project)


def test_an_annotation_is_compared_with_the_prediction_it_started_from(repository):
    after = results(("a", SMALLER, "lid"), ("c", ELSEWHERE, "foot"))
    repository.store.record_events([event(1, after, parent=9)])
    keep(repository.store, results(("a", ELSEWHERE, "other")), version="v2")
    assert derive(repository, Predictions(p9=predicted(PREDICTED))) == Derived(changed=1)
    expected = {"a": RegionChange.RESHAPED, "b": RegionChange.REMOVED, "c": RegionChange.ADDED}
    assert changes(repository) == expected
    (row,) = repository.tasks(7)
    assert (row.version, row.standing, row.annotators) == ("v1", Standing.CORRECTED, 1)
    assert (row.tally.reshaped, row.tally.removed, row.tally.added) == (1, 1, 1)
    (reshaped,) = (one for one in repository.outcomes(7) if one.region_id == "a")
    assert reshaped.iou == pytest.approx(2 / 3)
    assert (reshaped.label_before, reshaped.label_after) == ("lid", "lid")
    replaced = {one.region_id: one.replaced_by for one in repository.outcomes(7)}
    assert replaced["b"] == "c"


def test_captured_annotation_of_an_untouched_prediction_is_accepted_as_a_whole(repository):
    """Saved by the editor: each attribute repeats the mask, the masks are the predicted ones."""
    sent = json.loads((PAYLOADS / "webhook_ANNOTATION_UPDATED_ui_c2.json").read_text())["body"]
    saved = json.loads((PAYLOADS / "annotation_saved_from_prediction_repeater.json").read_text())
    (found,) = parse_events(json.dumps(sent).encode())
    repository.store.record_events([found])
    project, task = sent["project"]["id"], sent["annotation"]["task"]
    start = predicted(saved["result"], prediction_id=305)
    assert derive(repository, Predictions(p305=start), project) == Derived(changed=1)
    (row,) = repository.tasks(project)
    assert (row.tally.predicted, row.tally.accepted) == (10, 10)
    ours = {result["id"] for result in sent["annotation"]["result"] if "id" in result}
    theirs = {result["id"] for result in saved["result"] if "id" in result}
    added = {
        row.region_id for row in repository.outcomes(project) if row.change is RegionChange.ADDED
    }
    assert added == ours - theirs
    correction = Derivation(repository).load(project, task)
    assert len(correction.task.image_urls) == 4
    assert len(correction.outcomes) == 10 + len(added)


@pytest.mark.parametrize("path", sorted(PAYLOADS.glob("webhook_*.json")), ids=lambda p: p.stem)
def test_every_captured_event_can_be_derived(repository, path):
    sent = json.loads(path.read_text())["body"]
    repository.store.record_events(parse_events(json.dumps(sent).encode()))
    project = sent["project"]["id"]
    assert derive(repository, project=project).waiting == 0
    standings = {row.standing for row in repository.tasks(project)}
    says_nothing = "skip" in path.stem or "bulk" in path.stem
    assert standings <= {Standing.SKIPPED if says_nothing else Standing.CORRECTED}
    assert bool(standings) == ("annotation" in sent)


def test_without_an_api_the_kept_answer_with_the_same_masks_stands_in(repository):
    moved = results(("a", SMALLER, "lid"), ("b", ELSEWHERE, "rim"))
    keep(repository.store, PREDICTED, version="v1", key="1")
    keep(repository.store, moved, version="v2", key="2")
    after = results(("a", MASK, "lid"), ("b", box(0, 0, 5, 5), "rim"))
    repository.store.record_events([event(1, after, parent=9)])
    derive(repository)
    assert repository.tasks(7)[0].version == "v1"
    assert changes(repository) == {"a": RegionChange(0), "b": RegionChange.RESHAPED}


def test_an_annotation_by_the_api_is_matched_by_its_ids(repository):
    keep(repository.store, PREDICTED)
    repository.store.record_events([event(1, results(("a", SMALLER, "lid")))])
    derive(repository, Predictions())
    assert changes(repository) == {"a": RegionChange.RESHAPED, "b": RegionChange.REMOVED}


def test_an_annotation_from_nothing_is_all_added(repository):
    keep(repository.store, PREDICTED)
    repository.store.record_events([event(1, results(("x", MASK, "lid")))])
    derive(repository)
    assert changes(repository) == {"x": RegionChange.ADDED}
    assert repository.tasks(7)[0].version is None


def test_everything_removed_is_told(repository):
    keep(repository.store, PREDICTED)
    repository.store.record_events([event(1, [], parent=9)])
    derive(repository, Predictions())  # Label Studio has forgotten prediction 9
    assert changes(repository) == {"a": RegionChange.REMOVED, "b": RegionChange.REMOVED}


def test_what_an_annotation_started_from_is_found_out_once(repository):
    source = Predictions(p9=predicted(PREDICTED))
    repository.store.record_events([event(1, PREDICTED, parent=9)])
    derive(repository, source)
    source.found[9] = LabelStudioError("gone")
    repository.store.record_events([event(1, results(("a", MASK, "lid")), parent=9, second=5)])
    assert derive(repository, source) == Derived(changed=1)
    Derivation(repository, source).rebuild(7)
    assert source.asked == [9]
    assert changes(repository) == {"a": RegionChange(0), "b": RegionChange.REMOVED}


def test_a_start_that_cannot_be_fetched_is_waited_for(repository):
    source = Predictions(p9=LabelStudioError("down"))
    repository.store.record_events([event(1, PREDICTED, parent=9), event(2, PREDICTED, task=6)])
    assert derive(repository, source) == Derived(changed=1, waiting=1)
    assert [row.task_id for row in repository.tasks(7)] == [6]
    source.found[9] = predicted(PREDICTED)
    assert derive(repository, source) == Derived(changed=1)
    assert changes(repository) == {"a": RegionChange(0), "b": RegionChange(0)}


def test_predictions_are_fetched_from_label_studio(repository):
    studio = FakeStudio()
    studio.predictions[9] = {"id": 9, "task": 5, "model_version": "v7", "result": PREDICTED}
    repository.store.record_events([event(1, PREDICTED, parent=9), event(2, [], task=6, parent=8)])
    source = StudioPredictions(studio.client())
    assert derive(repository, source) == Derived(changed=2)
    assert [row.version for row in repository.tasks(7)] == ["v7", None]


def test_nothing_new_is_nothing_to_do(repository):
    repository.store.record_events([event(1, PREDICTED)])
    assert derive(repository) == Derived(changed=1)
    assert derive(repository) == Derived()


def test_the_newest_annotator_counts_and_agreement_is_kept(repository):
    first = event(1, results(("x", MASK, "lid")), annotator=1, second=1)
    second = event(2, results(("y", SMALLER, "rim")), annotator=2, second=2)
    repository.store.record_events([second, first])
    derive(repository)
    (row,) = repository.tasks(7)
    assert (row.annotation_id, row.annotators) == (2, 2)
    assert row.agreement == pytest.approx(2 / 3)
    assert changes(repository) == {"y": RegionChange.ADDED}


def test_ground_truth_is_respected(repository):
    truth = event(1, results(("x", MASK, "lid")), second=1, truth=True)
    repository.store.record_events([truth, event(2, [], annotator=2, second=2)])
    derive(repository)
    (row,) = repository.tasks(7)
    assert (row.annotation_id, row.is_ground_truth) == (1, True)


def test_skipped_deleted_and_restored_tasks(repository):
    store = repository.store
    store.record_events([event(1, [], skipped=True), event(2, PREDICTED, task=6)])
    derive(repository)
    assert [row.standing for row in repository.tasks(7)] == [Standing.SKIPPED, Standing.CORRECTED]
    store.record_events([event(1, PREDICTED, second=9), deletion(2)])
    assert derive(repository) == Derived(changed=1, dropped=1)
    assert [(row.task_id, row.standing) for row in repository.tasks(7)] == [(5, Standing.CORRECTED)]
    store.record_events([task_deletion(5)])
    assert derive(repository) == Derived(dropped=1)
    assert repository.outcomes(7) == ()


def test_a_deletion_brings_back_the_other_annotator(repository):
    store = repository.store
    store.record_events([event(1, PREDICTED, second=1), event(2, [], annotator=2, second=2)])
    derive(repository)
    store.record_events([deletion(2)])
    derive(repository)
    (row,) = repository.tasks(7)
    assert (row.annotation_id, row.annotators, row.agreement) == (1, 1, None)
    # Which counts as news: a model may have learned from what was deleted.
    assert row.seq == 3


def test_what_somebody_else_derives_meanwhile_is_not_dropped(repository):
    store, heads = repository.store, repository.heads
    store.record_events([event(1, PREDICTED)])

    def overtaken(project_id, **options):
        found = heads(project_id, **options)
        repository.heads = heads
        store.record_events([event(2, PREDICTED, task=6)])
        derive(CorrectionRepository(store))
        return found

    repository.heads = overtaken
    assert derive(repository).dropped == 0
    assert [row.task_id for row in repository.tasks(7)] == [5, 6]


def test_a_label_studio_that_does_not_answer_is_not_asked_for_every_task(repository):
    source = Predictions(p9=LabelStudioError("down"))
    events = [event(n, PREDICTED, task=n, parent=9) for n in range(1, 9)]
    repository.store.record_events([*events, event(20, PREDICTED, task=20)])
    derivation = Derivation(repository, source)
    assert derivation.derive(7) == Derived(changed=1, waiting=8)
    assert len(source.asked) == 3
    source.found[9] = predicted(PREDICTED)
    assert derivation.derive(7) == Derived(changed=8)


def test_an_event_that_cannot_be_read_is_told_and_not_tried_again(repository):
    sent = body(1, PREDICTED)
    sent["project"]["label_config"] = "<View/>"
    repository.store.record_events(parse_events(json.dumps(sent).encode()))
    assert derive(repository) == Derived(changed=1)
    (row,) = repository.tasks(7)
    assert row.standing is Standing.UNREADABLE
    assert row.problem
    assert derive(repository) == Derived()


def test_a_broken_mask_spoils_its_region_only(repository):
    broken = results(("a", MASK, "lid"), ("b", ELSEWHERE, "rim"))
    for result in broken[:3]:
        result["value"]["rle"] = [1, 2, 3]
    repository.store.record_events([event(1, broken)])
    derive(repository)
    assert changes(repository) == {"b": RegionChange.ADDED}
    assert "cannot be decoded: a" in repository.tasks(7)[0].problem


def outlined(id_, label, value, tool):
    frame = {"id": id_, "to_name": "image_0", "original_width": 60, "original_height": 40}
    said = (
        ("kind_0", "labels", {"labels": ["common_part"]}),
        ("part_0", "textarea", {"text": label}),
    )
    return [
        frame | {"from_name": "shape_0", "type": tool, "value": value},
        *(frame | {"from_name": tag, "type": kind, "value": words} for tag, kind, words in said),
    ]


@pytest.mark.parametrize(
    ("tool", "value", "teaches"),
    [
        ("polygon", {"points": [[20, 30], [60, 30], [60, 70], [20, 70]]}, Supervision.MASK),
        (  # IoU 0.48: another region
            "rectangle",
            {"x": 60, "y": 30, "width": 30, "height": 40, "rotation": 90},
            Supervision.TEXT | Supervision.MASK,
        ),
        ("keypoint", {"x": 50, "y": 50, "width": 1}, None),
        ("polygon", {"points": [[20, 30], [60, 30]]}, None),
    ],
)
def test_a_mask_drawn_anew_with_another_tool_is_not_absent(repository, tool, value, teaches):
    after = results(("b", ELSEWHERE, "rim")) + outlined("new", ["lid"], value, tool)
    repository.store.record_events([event(1, after, parent=9)])
    source = Predictions(p9=predicted(PREDICTED))
    derive(repository, source)
    taught = {
        one.region.id: one.supervision
        for one in training_targets(Derivation(repository, source).load(7, 5))
    }
    assert taught.pop("b") is Supervision.REHEARSAL
    assert taught == ({} if teaches is None else {"new": teaches})


def test_an_imported_annotation_without_ids_keeps_all_its_masks(repository):
    drawn = results(*((str(n), np.roll(MASK, n), f"part {n}") for n in range(4)))
    for result in drawn:
        result["id"] = None
    repository.store.record_events([event(1, drawn)])
    derive(repository)
    assert sorted(row.label_after for row in repository.outcomes(7, 5)) == [
        f"part {n}" for n in range(4)
    ]


def test_an_annotation_that_came_and_went_leaves_what_a_rebuild_gives(repository):
    repository.store.record_events([event(1, results(("a", MASK, "lid")))])
    derive(repository)
    repository.store.record_events([event(2, results(("a", SMALLER, "lid"))), deletion(2)])
    derive(repository)
    kept = repository.tasks(7)
    Derivation(repository).rebuild(7)
    assert repository.tasks(7) == kept
