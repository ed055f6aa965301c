"""What `calico corrections` shows and writes, for a database a backend left behind."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from backend.cli import command_tree, corrections_export
from backend.cli import corrections as command
from backend.cli.corrections_export import write_coco
from backend.errors import MediaUnavailableError, SettingsError
from backend.learning import schedule
from backend.learning.correction import Correction, diff
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.settings import load_settings
from backend.storage.store import open_store
from backend.types import Task, UnreadRegion
from calico_model.data.groups import read_groups
from calico_model.errors import CheckpointError
from calico_model.types import ImageGroup, RegionKind
from tests.unit.learning.annotated import START, box, deletion, event, region, results

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


def test_every_project_is_summed_up(data_dir, monkeypatch):
    monkeypatch.setattr(schedule, "LEARNED_FIRST", 0)
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


def correction_of(task_id, urls, *regions, unread=(), before=()):
    difference = diff(before, regions, unread)
    return Correction(
        task=Task(task_id, 7, urls),
        annotation_id=task_id,
        annotator_id=1,
        updated_at=START,
        version="v1",
        outcomes=difference.outcomes,
        unknown=difference.unknown,
    )


def coco_of(tmp_path, *corrections, fetch=None):
    def refuse(task):
        raise MediaUnavailableError("on purpose", field=task.image_fields[0])

    write_coco(tmp_path / "a.json", corrections, fetch or refuse, on_progress=lambda done: None)
    coco = json.loads((tmp_path / "a.json").read_text())
    return {image["file_name"]: image for image in coco["images"]}, coco["annotations"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    def fill(path, content):
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.json").write_text("old")
    monkeypatch.setattr(corrections_export, "write_file", fill)
    with pytest.raises(CheckpointError, match=r"a\.json: could not be written: .*No space left"):
        coco_of(tmp_path, correction_of(1, ("/data/a.png",), region("a", MASK)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_picture_of_two_tasks_is_one_image_of_the_coco_file(tmp_path):
    urls = ("/data/1/a.png", "/data/2/a.png")
    images, annotations = coco_of(
        tmp_path,
        correction_of(1, urls, region("a", MASK), region("b", MASK, image=1)),
        correction_of(2, urls[::-1], region("a", SMALLER)),
    )
    assert list(images) == list(urls)
    first, second = (images[url]["id"] for url in urls)
    assert [found["image_id"] for found in annotations] == [first, second, second]
    assert [found["task"] for found in annotations] == [1, 1, 2]


def test_an_address_that_shows_another_size_is_another_image(tmp_path):
    urls = ("/data/a.png",)
    small = np.ones((4, 6), bool)
    corrections = [
        correction_of(n, urls, region("a", m)) for n, m in enumerate((MASK, small, MASK))
    ]
    write_coco(tmp_path / "a.json", corrections, None, on_progress=lambda done: None)
    coco = json.loads((tmp_path / "a.json").read_text())
    assert [(image["width"], image["height"]) for image in coco["images"]] == [(60, 40), (6, 4)]
    assert [found["image_id"] for found in coco["annotations"]] == [1, 2, 1]


def test_images_without_masks_are_in_the_coco_file(tmp_path):
    asked = []

    def fetch(task):
        asked.append(task.image_urls)
        return ImageGroup((np.zeros((7, 9, 3), np.uint8),), ("x",))

    urls = ("a", "b", "c", "d")
    images, _ = coco_of(
        tmp_path,
        correction_of(1, urls, region("a", MASK), before=[region("z", MASK, image=2)]),
        correction_of(2, ("b",), region("a", SMALLER)),
        correction_of(3, ("e",)),
        fetch=fetch,
    )
    sizes = {name: (image["width"], image["height"]) for name, image in images.items()}
    known = dict.fromkeys("abc", (60, 40))  # c from what was predicted, b from another task
    assert sizes == known | {"d": (9, 7), "e": (9, 7)}
    assert asked == [("d",), ("e",)]


def test_an_image_that_cannot_be_fetched_is_there_without_its_size(tmp_path):
    images, annotations = coco_of(tmp_path, correction_of(1, ("a", "b")))
    assert [image["width"] for image in images.values()] == [None, None]
    assert annotations == []


def test_what_is_unknown_on_an_image_is_said_beside_it(tmp_path):
    unread = [UnreadRegion("k", 0, "leg"), UnreadRegion("l", 0, None)]
    images, _ = coco_of(tmp_path, correction_of(1, ("a", "b"), region("a", MASK), unread=unread))
    assert images["a"]["unknown"] == ["", "leg"]
    assert "unknown" not in images["b"]


def test_every_label_of_a_region_is_exported(tmp_path):
    _, annotations = coco_of(tmp_path, correction_of(1, ("a",), region("a", MASK, more=("wood",))))
    assert len({found["category_id"] for found in annotations}) == 2
    assert {found["area"] for found in annotations} == {float(MASK.sum())}


def test_an_image_in_the_task_itself_has_a_short_name(tmp_path):
    url = "data:image/png;base64," + "A" * 10_000
    images, _ = coco_of(tmp_path, correction_of(1, (url,), region("a", MASK)))
    (name,) = images
    assert len(name) < 30


@pytest.mark.parametrize(("split", "tasks"), [("train", {4, 6}), ("held-out", {2})])
def test_sides_are_exported_apart(data_dir, tmp_path, monkeypatch, split, tasks):
    monkeypatch.setattr(schedule, "LEARNED_FIRST", 0)
    run("--data-dir", data_dir, "--split", split, "--export", tmp_path / "a.json")
    coco = json.loads((tmp_path / "a.json").read_text())
    assert {found["task"] for found in coco["annotations"]} == tasks


def test_a_failed_export_leaves_nothing(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "image_source", lambda settings, client: Source(missing=None))

    def fail(*_arguments):
        raise OSError("disk full")

    monkeypatch.setattr(corrections_export, "write_record_files", fail)
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
