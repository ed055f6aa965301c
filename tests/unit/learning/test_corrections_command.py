"""What `calico corrections` shows and writes, for a database a backend left behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from annotated import box, deletion, event, results
from typer.testing import CliRunner

from backend.cli import command_tree, corrections_export
from backend.cli import corrections as command
from backend.errors import MediaUnavailableError, SettingsError
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.settings import load_settings
from backend.store import open_store
from calico_model.data.groups import read_groups
from calico_model.types import ImageGroup, RegionKind

MASK, SMALLER, ELSEWHERE = box(10, 10, 30, 40), box(10, 10, 30, 30), box(0, 50, 5, 60)
PREDICTED = results(("a", MASK, "lid"), ("b", ELSEWHERE, "rim"))
AFTER = results(
    ("a", SMALLER, "lid"),
    ("c", MASK, "lid", "common_part", 1),
    ("d", ELSEWHERE, "hinge", "unique_part"),
    ("e", MASK, "box", "common_object"),
)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "data"
    store = open_store(load_settings(data_dir=folder).store_url)
    answer = json.dumps({"score": 0.5, "regions": PREDICTED}).encode()
    store.keep_prediction("k", answer, project_id=7, task_id=2, version="v1")
    store.record_events([event(1, AFTER, task=2, parent=9), event(2, [], task=3, skipped=True)])
    store.record_events([event(3, AFTER, task=4), deletion(99), event(5, AFTER, task=6, project=8)])
    store.close()
    return folder


def run(*arguments):
    words = ["corrections", *(str(word) for word in arguments)]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])["projects"]


def test_every_project_is_summed_up(data_dir):
    first, second = run("--data-dir", data_dir)
    assert (first["project"], second["project"]) == (7, 8)
    assert (first["tasks"], first["skipped"], first["held_out"]) == (2, 1, 1)
    counts = {name: first[name] for name in ("predicted", "reshaped", "removed", "added")}
    assert counts == {"predicted": 2, "reshaped": 1, "removed": 1, "added": 3 + 4}
    assert first["reshaped_iou"] == pytest.approx(0.6667)
    assert (first["acceptance"], second["acceptance"]) == (0.0, None)


def test_rebuilding_changes_nothing(data_dir):
    before = run("--data-dir", data_dir)
    assert run("--data-dir", data_dir, "--rebuild") == before
    assert run("--data-dir", data_dir, "--project", 8) == before[1:]


def test_coco_file_holds_every_region_the_annotators_left(data_dir, tmp_path):
    run("--data-dir", data_dir, "--export", tmp_path / "out" / "all.json")
    coco = json.loads((tmp_path / "out" / "all.json").read_text())
    assert len(coco["annotations"]) == 3 * len({"a", "c", "d", "e"})
    reshaped = [found for found in coco["annotations"] if found["changes"] == ["reshaped"]]
    assert [(found["region"], found["version"]) for found in reshaped] == [("a", "v1")]
    assert reshaped[0]["area"] == SMALLER.sum()
    assert coco["images"][0]["file_name"] == "/data/a.png"
    assert {category["name"] for category in coco["categories"]} == {"lid", "hinge", "box"}


class Source:
    """Draws the two images of every task but the one with a missing file."""

    def __init__(self, missing):
        self.missing = missing

    def fetch_group(self, task):
        if task.id == self.missing:
            raise MediaUnavailableError("on purpose")
        images = tuple(np.full((40, 60, 3), 50 * n, np.uint8) for n in range(2))
        return ImageGroup(images, ("a", "b"))


def test_exported_folder_is_read_by_our_own_commands(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "image_source", lambda settings, client: Source(missing=6))
    run("--data-dir", data_dir, "--export", tmp_path / "set")
    first, second = (group for group in read_groups(tmp_path / "set") if len(group.group) == 2)
    for found in (first, second):
        parts = {(part.kind, part.label, part.image_index): part for part in found.parts}
        lid = parts[RegionKind.COMMON_PART, "lid", 0]
        assert np.array_equal(lid.mask, SMALLER)
        assert lid.part_id == parts[RegionKind.COMMON_PART, "lid", 1].part_id
        assert (RegionKind.UNIQUE_PART, "hinge", 0) in parts
        assert [thing.label for thing in found.objects] == ["box", "object"]
    assert (tmp_path / "set").stat().st_mode & 0o777 == 0o755
    with pytest.raises(SettingsError, match="empty folder"):
        run("--data-dir", data_dir, "--export", tmp_path / "set")


@pytest.mark.parametrize(("split", "tasks"), [("train", {4, 6}), ("held-out", {2})])
def test_sides_are_exported_apart(data_dir, tmp_path, split, tasks):
    run("--data-dir", data_dir, "--split", split, "--export", tmp_path / "a.json")
    coco = json.loads((tmp_path / "a.json").read_text())
    assert {found["task"] for found in coco["annotations"]} == tasks


def test_a_failed_export_leaves_nothing(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "image_source", lambda settings, client: Source(missing=None))

    def fail(*_arguments):
        raise OSError("disk full")

    monkeypatch.setattr(corrections_export, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        run("--data-dir", data_dir, "--export", tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_wrong_folder_and_missing_key_are_said(data_dir, tmp_path):
    with pytest.raises(SettingsError, match="no database"):
        run("--data-dir", tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="LABEL_STUDIO_URL"):
        run("--data-dir", data_dir, "--reconcile")


def test_a_running_backend_is_not_disturbed(data_dir):
    store = open_store(load_settings(data_dir=data_dir).store_url)
    run("--data-dir", data_dir)
    store.record_events([event(9, PREDICTED, task=9)])
    assert run("--data-dir", data_dir, "--project", 7)[0]["tasks"] == 3
    assert Derivation(CorrectionRepository(store)).derive(7).changed == 0
    store.close()
