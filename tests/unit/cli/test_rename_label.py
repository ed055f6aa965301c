"""`calico rename-label` against a Label Studio held in memory, with a real database."""

from __future__ import annotations

import json

import httpx
import pytest
from typer.testing import CliRunner

from backend.cli import command_tree, rename_label
from backend.cli.bulk_accept import CopiedTask, CopiedTasks
from backend.errors import LabelStudioError, SettingsError
from backend.label_schema import LabelValue
from backend.label_studio.brush import encode_mask
from backend.label_studio.event import parse_events
from backend.label_studio.group_config import labels_config
from backend.learning.correction import RegionChange
from backend.learning.derivation import Derivation, Derived, StudioPredictions
from backend.learning.reconcile import Reconciler, Repair
from backend.learning.repository import CorrectionRepository
from backend.storage.store import open_store
from tests.unit.learning.annotated import box
from tests.unit.learning.fake_studio import FakeStudio, moment

PROJECT = 7
CONFIG = labels_config([LabelValue("wheel"), LabelValue("door")])
MASK, SMALLER = box(10, 10, 30, 40), box(10, 10, 30, 30)


def drawn(id_, label, mask=MASK):
    """The two results of one region."""
    frame = {"id": id_, "to_name": "image_0", "original_width": 60, "original_height": 40}
    value = {"format": "rle", "rle": encode_mask(mask)}
    return [
        frame | {"from_name": "mask_0", "type": "brush", "value": value},
        frame | {"from_name": "part_0", "type": "labels", "value": value | {"labels": [label]}},
    ]


def labels_in(results):
    return [name for one in results for name in one["value"].get("labels", [])]


class Studio(FakeStudio):
    """Label Studio with what can be renamed, and a webhook into the backend's database.

    Saving an annotation throws away its drafts, and stamps a new time and editor.
    """

    def __init__(self, store):
        super().__init__(PROJECT)
        self.store, self.config, self.now = store, CONFIG, 100
        self.sends_first = True
        self.calls, self.refused = [], set()

    def put(self, task_id, *annotations, predictions=(), drafts=()):
        self.add_task(task_id)
        self.tasks[task_id] |= {"drafts": list(drafts), "predictions": list(predictions)}
        for said in annotations:
            self.tasks[task_id]["annotations"].append(said)
            self.send("ANNOTATION_CREATED", said)

    def send(self, action, said):
        task = self.tasks[said["task"]]
        body = {
            "action": action,
            "annotation": said,
            "task": {"id": task["id"], "data": task["data"]},
            "project": {"id": PROJECT, "label_config": self.config},
        }
        self.store.record_events(parse_events(json.dumps(body).encode()))

    def __call__(self, request):
        kind, number = [*request.url.path.strip("/").split("/"), ""][1:3]
        if request.method == "GET" and (kind, number) == ("projects", "7"):
            found = {"id": PROJECT, "title": "t", "label_config": self.config}
            return httpx.Response(200, json=found)
        if request.method == "GET" and request.url.path.endswith("/drafts"):
            return httpx.Response(200, json=self.tasks[int(number)]["drafts"])
        if request.method == "GET" and request.url.path == "/api/predictions/":
            return httpx.Response(
                200, json=self.tasks[int(request.url.params["task"])]["predictions"]
            )
        if request.method == "GET":
            return super().__call__(request)
        if kind == "dm" and "copies" in self.refused:
            return httpx.Response(500, json={"detail": "on purpose"})
        if kind == "dm":
            return self.copy_predictions(json.loads(request.content))
        self.calls.append((request.method, kind, int(number)))
        if (kind, int(number)) in self.refused:
            return httpx.Response(500, json={"detail": "on purpose"})
        if request.method == "DELETE":
            self.unannotate(int(number), second=self.now)
            return httpx.Response(204)
        return self.change(kind, int(number), json.loads(request.content))

    def change(self, kind, number, body):
        if kind == "projects":
            self.config = body.get("label_config", self.config)
            return httpx.Response(200, json={})
        task, said = next(
            (t, one) for t in self.tasks.values() for one in t[kind] if one["id"] == number
        )
        said["result"] = body["result"]
        if kind == "annotations":
            self.now += 60
            said |= {"updated_at": moment(self.now), "updated_by": 9}
            task["updated_at"] = said["updated_at"]
            task["drafts"] = [one for one in task["drafts"] if one["annotation"] != number]
            if self.sends_first:
                self.send("ANNOTATION_UPDATED", said)
        return httpx.Response(200, json=said)

    def copy_predictions(self, body):
        """Label Studio's action "Create Annotations From Predictions"."""
        for task_id in body["selectedItems"]["included"]:
            for one in self.tasks[task_id]["predictions"]:
                used = {said["parent_prediction"] for said in self.tasks[task_id]["annotations"]}
                if one["model_version"] == body["model_version"] and one["id"] not in used:
                    self.now += 60
                    copy = annotation(
                        self.now, task_id, one["result"], parent=one["id"], seen=False
                    )
                    self.tasks[task_id]["annotations"].append(copy)
                    self.send("ANNOTATION_CREATED", copy)
        return httpx.Response(200, json={})

    def _task(self, task, fields):
        more = {"total_predictions": len(task["predictions"]), "draft_exists": bool(task["drafts"])}
        return super()._task(task, fields) | more


def annotation(id_, task, result, *, parent=None, skipped=False, seen=True):
    return {
        "id": id_, "task": task, "project": PROJECT, "completed_by": 1, "result": result,
        "updated_at": moment(id_), "was_cancelled": skipped, "parent_prediction": parent,
        "updated_by": 1 if seen else None,
    }  # fmt: skip


class Desk:
    """A database, a Label Studio, and the command between them."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.store = open_store(f"sqlite:///{folder / 'calico.sqlite3'}", commit_timeout_s=30)
        self.repository = CorrectionRepository(self.store)
        self.studio = Studio(self.store)
        monkeypatch.setattr(rename_label, "label_studio_of", lambda _: self.studio.client())

    def run(self, *words):
        line = ["rename-label", "--project", "7", "--data-dir", str(self.folder), *words]
        result = CliRunner().invoke(command_tree(line), line)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, json.loads(result.stdout.splitlines()[-1])

    def derive(self):
        source = StudioPredictions(self.studio.client())
        return Derivation(self.repository, source).derive(PROJECT)

    def rows(self):
        return {row.task_id: row for row in self.repository.tasks(PROJECT)}

    def outcomes(self):
        return {
            (row.task_id, row.region_id): (row.change, row.label_after)
            for row in self.repository.outcomes(PROJECT)
        }


@pytest.fixture
def desk(tmp_path, monkeypatch):
    made = Desk(tmp_path, monkeypatch)
    yield made
    made.store.close()


@pytest.mark.parametrize("sends_first", [True, False])
def test_everything_has_the_new_name_and_nothing_is_a_new_correction(desk, sends_first):
    studio = desk.studio
    studio.sends_first = sends_first
    prediction = {"id": 31, "task": 1, "result": drawn("a", "wheel"), "model_version": "v1"}
    studio.predictions[31] = prediction
    studio.put(
        1,
        annotation(1, 1, [*drawn("a", "wheel"), *drawn("b", "door", SMALLER)], parent=31),
        annotation(2, 1, drawn("z", "wheel"), skipped=True),
        predictions=[prediction],
    )
    draft = {"id": 41, "annotation": None, "result": drawn("d", "wheel")}
    studio.put(2, annotation(3, 2, drawn("c", "door")), drafts=[draft])
    desk.derive()
    rows = desk.rows()
    status, report = desk.run("wheel", "tyre")
    assert status == 0
    counts = {key: report[key] for key in ("tasks", "annotations", "drafts", "predictions")}
    assert counts == {"tasks": 2, "annotations": 2, "drafts": 1, "predictions": 1}
    assert (report["config_changed"], report["merged"], report["failures"]) == (True, False, [])
    for task in studio.tasks.values():
        for one in (*task["annotations"], *task["drafts"], *task["predictions"]):
            assert "wheel" not in labels_in(one["result"])
    assert 'value="tyre"' in studio.config
    assert ("POST", "projects", 7) in studio.calls  # drafts are counted anew

    assert desk.derive().changed == 1
    assert {task: row.seq for task, row in desk.rows().items()} == {
        task: row.seq for task, row in rows.items()
    }
    accepted, added = RegionChange(0), RegionChange.ADDED
    assert desk.outcomes() == {
        (1, "a"): (accepted, "tyre"),
        (1, "b"): (added, "door"),
        (2, "c"): (added, "door"),
    }
    # Nor does comparing with Label Studio find anything.
    assert Reconciler(desk.repository, studio.client()).reconcile(7, is_full=True) == Repair()
    assert desk.derive() == Derived()

    studio.calls.clear()
    status, again = desk.run("wheel", "tyre")
    assert (status, again["tasks"], again["config_changed"], studio.calls) == (0, 0, False, [])


def test_a_dry_run_counts_and_changes_nothing(desk):
    desk.studio.put(1, annotation(1, 1, drawn("a", "wheel")))
    status, report = desk.run("wheel", "tyre", "--dry-run")
    assert (status, report["annotations"], report["config_changed"]) == (0, 1, True)
    assert (desk.studio.calls, desk.studio.config) == ([], CONFIG)


def test_a_run_that_was_cut_off_is_continued_by_the_same_command(desk):
    for task in range(1, 7):
        desk.studio.put(task, annotation(task, task, drawn("a", "wheel")))
    desk.derive()
    rows = desk.rows()
    desk.studio.refused = {("annotations", number) for number in (3, 4, 5)}
    with pytest.raises(LabelStudioError, match="on purpose"):
        desk.run("wheel", "tyre")
    desk.studio.refused = set()
    desk.studio.calls.clear()
    status, report = desk.run("wheel", "tyre")
    assert (status, report["annotations"]) == (0, 4)
    assert [call[2] for call in desk.studio.calls] == [3, 4, 5, 6]
    desk.derive()
    assert {row.seq for row in desk.rows().values()} == {row.seq for row in rows.values()}
    assert {label for _, label in desk.outcomes().values()} == {"tyre"}


def test_one_task_that_label_studio_refuses_does_not_stop_the_others(desk):
    for task in (1, 2):
        desk.studio.put(task, annotation(task, task, drawn("a", "wheel")))
    desk.studio.refused = {("annotations", 1)}
    status, report = desk.run("wheel", "tyre")
    assert (status, report["annotations"]) == (1, 1)
    assert [failure["task"] for failure in report["failures"]] == [1]
    assert "on purpose" in report["failures"][0]["reason"]


def test_unsaved_changes_of_an_annotator_are_not_thrown_away(desk):
    draft = {"id": 41, "annotation": 1, "result": drawn("a", "wheel", SMALLER)}
    desk.studio.put(1, annotation(1, 1, drawn("a", "wheel")), drafts=[draft])
    status, report = desk.run("wheel", "tyre")
    assert (status, report["left_for_draft"], report["drafts"]) == (1, 1, 1)
    assert [one["id"] for one in desk.studio.tasks[1]["drafts"]] == [41]
    assert labels_in(draft["result"]) == ["tyre"]
    assert labels_in(desk.studio.tasks[1]["annotations"][0]["result"]) == ["wheel"]


@pytest.fixture
def copy(desk):
    """A copy of a prediction that nobody has looked at, remembered by `calico review`."""
    prediction = {"id": 31, "task": 1, "result": drawn("a", "wheel"), "model_version": "v1"}
    made = annotation(1, 1, drawn("a", "wheel"), parent=31, seen=False)
    desk.studio.put(1, made, predictions=[prediction])
    CopiedTasks(desk.folder, PROJECT).save([CopiedTask(1, 31, 1), CopiedTask(2, 32, 5)])
    return made


def check_copied_again(desk):
    (again,) = desk.studio.tasks[1]["annotations"]
    assert (again["updated_by"], labels_in(again["result"])) == (None, ["tyre"])
    remembered = CopiedTasks(desk.folder, PROJECT).load()
    assert remembered == (CopiedTask(1, 31, again["id"]), CopiedTask(2, 32, 5))
    desk.derive()
    assert desk.rows()[1].is_unseen


def test_a_copy_that_nobody_has_looked_at_does_not_become_a_correction(desk, copy):
    status, report = desk.run("wheel", "tyre")
    assert (status, report["copies"], report["annotations"]) == (0, 1, 0)
    check_copied_again(desk)
    assert desk.run("wheel", "tyre")[1]["tasks"] == 0


def test_a_copy_that_cannot_be_made_again_is_told(desk, copy):
    desk.studio.refused = {"copies"}
    status, report = desk.run("wheel", "tyre")
    assert status == 1
    assert "accept it once more with calico review" in report["failures"][0]["reason"]
    assert desk.studio.tasks[1]["annotations"] == []


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_copy_that_label_studio_cannot_copy_again_stays_and_is_told(desk, copy, is_gone):
    if is_gone:
        desk.studio.tasks[1]["predictions"] = []
    else:  # a person has started from the same prediction
        desk.studio.put(1, copy, annotation(2, 1, drawn("a", "door"), parent=31),
                        predictions=desk.studio.tasks[1]["predictions"])  # fmt: skip
    status, report = desk.run("wheel", "tyre")
    assert (status, report["left_unseen"], report["copies"]) == (1, 1, 0)
    assert (copy["updated_by"], labels_in(copy["result"])) == (None, ["wheel"])


def test_a_change_that_never_arrived_is_learned_with_its_new_name(desk):
    desk.studio.put(1, annotation(1, 1, drawn("a", "wheel")))
    desk.derive()
    seq = desk.rows()[1].seq
    lost = desk.studio.tasks[1]["annotations"][0]
    lost |= {"result": drawn("a", "wheel", SMALLER), "updated_at": moment(50)}
    assert desk.run("wheel", "tyre")[0] == 0
    desk.derive()
    assert desk.rows()[1].seq > seq


def test_a_label_that_was_renamed_by_hand_is_renamed_everywhere_else(desk):
    desk.studio.put(1, annotation(1, 1, drawn("a", "wheel")))
    desk.studio.config = CONFIG.replace('value="wheel"', 'value="tyre"')
    status, report = desk.run("wheel", "tyre")
    assert (status, report["annotations"], report["config_changed"]) == (0, 1, True)
    with pytest.raises(SettingsError, match="OLD: project 7 has no label 'hub', and nothing is"):
        desk.run("hub", "door")


def test_two_labels_become_one_only_if_that_is_said(desk):
    desk.studio.put(1, annotation(1, 1, [*drawn("a", "wheel"), *drawn("b", "door", SMALLER)]))
    with pytest.raises(SettingsError, match="--merge"):
        desk.run("wheel", "door")
    assert desk.studio.calls == []
    status, report = desk.run("wheel", "door", "--merge")
    assert (status, report["merged"]) == (0, True)
    assert labels_in(desk.studio.tasks[1]["annotations"][0]["result"]) == ["door", "door"]
    assert desk.run("wheel", "door")[1]["tasks"] == 0


def test_a_missing_token_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    line = ["rename-label", "--project", "7", "wheel", "tyre", "--url", "http://studio:1"]
    with pytest.raises(SettingsError, match="LABEL_STUDIO_API_KEY: not set"):
        CliRunner().invoke(command_tree(line), line, catch_exceptions=False)
