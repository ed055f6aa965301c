"""What `calico export` takes from a project, what it leaves out, and how it goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from backend.errors import SettingsError
from backend.export.staging import partial_folder, staged
from calico_model.data.groups import read_groups
from calico_model.types import RegionKind
from research.label_studio.sample import REPEATER_CONFIG
from tests.unit.export.fake_studio import SIZE, FakeStudio, config, drawn, png
from tests.unit.learning.annotated import box, results

# pycocotools decodes masks in a way that numpy will drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LEFT, RIGHT, INSIDE = box(5, 5, 30, 25), box(5, 25, 30, 50), box(10, 10, 15, 15)
LABELS = ("wheel", "saddle", "bike", "never drawn")


@pytest.fixture
def studio():
    """Two tasks that share a picture, each with names that other pictures have as well."""
    studio = FakeStudio(config(*LABELS))
    studio.files = {"/1/a.png": png(10), "/2/a.png": png(20), "/3/copy of a.png": png(10)}
    first = studio.add_task("/1/a.png", "/2/a.png")
    second = studio.add_task("/3/copy of a.png")
    drawings = [
        *drawn("w", LEFT, "wheel", kind="common_part"),
        *drawn("v", RIGHT, "wheel", image=1, kind="common_part"),
        *drawn("i", INSIDE, "saddle", "wheel"),
        *drawn("b", LEFT | RIGHT, "bike", kind="common_object"),
        *drawn("n", LEFT),
        {"type": "relation", "from_id": "w", "to_id": "v", "direction": "bi"},
    ]
    studio.annotate(first, drawings)
    studio.annotate(second, drawn("x", RIGHT, "wheel"))
    return studio


def coco_of(folder):
    """The file as pycocotools reads it, and its annotations by (task, region)."""
    coco = COCO(str(folder / "annotations.json"))
    return coco, {(a["task"], a["region"]): a for a in coco.anns.values()}


def test_coco_holds_every_label_and_each_picture_once(studio, tmp_path, monkeypatch):
    summary = studio.exported(monkeypatch, "coco", tmp_path / "out")
    coco, annotations = coco_of(tmp_path / "out")
    assert [category["name"] for category in coco.cats.values()] == list(LABELS)
    assert list(coco.cats) == [1, 2, 3, 4]
    assert len(coco.imgs) == 2
    names = [image["file_name"] for image in coco.imgs.values()]
    assert len({name.lower() for name in names}) == 2
    assert all((tmp_path / "out" / "images" / name).is_file() for name in names)
    assert coco.imgs[1]["tasks"] == [1, 2]
    assert annotations[1, "w"]["image_id"] == annotations[2, "x"]["image_id"] == 1
    assert np.array_equal(coco.annToMask(annotations[1, "b"]), LEFT | RIGHT)
    assert (summary["tasks"], summary["images"], summary["regions"]) == (2, 2, 5)
    assert summary["labels"] == {"wheel": 4, "saddle": 1, "bike": 1, "never drawn": 0}


def test_two_labels_are_two_annotations_and_no_label_is_counted(studio, tmp_path, monkeypatch):
    summary = studio.exported(monkeypatch, "coco", tmp_path / "out")
    coco, _ = coco_of(tmp_path / "out")
    of_region = [a["category_id"] for a in coco.anns.values() if a["region"] == "i"]
    assert of_region == [2, 1]
    assert summary["left_out"] == {"without_label": 1}
    assert "n" not in {a["region"] for a in coco.anns.values()}


@pytest.mark.parametrize("format_name", ["coco", "voc-png"])
def test_a_label_with_spaces_around_it_is_one_category(tmp_path, monkeypatch, format_name):
    studio = FakeStudio(config(" front  wheel ", "front wheel", "saddle"))
    studio.files = {"/1/a.png": png(10)}
    task = studio.add_task("/1/a.png")
    studio.annotate(task, drawn("w", LEFT, " front  wheel ") + drawn("s", RIGHT, "saddle"))
    summary = studio.exported(monkeypatch, format_name, tmp_path / "out")
    assert summary["labels"] == {"front wheel": 1, "saddle": 1}


def test_groups_and_linked_parts_are_kept(studio, tmp_path, monkeypatch):
    studio.exported(monkeypatch, "coco", tmp_path / "out")
    _, annotations = coco_of(tmp_path / "out")
    assert annotations[1, "w"]["part"] == annotations[1, "v"]["part"]
    assert "part" not in annotations[2, "x"]
    groups = json.loads((tmp_path / "out" / "groups.json").read_text())
    assert [group["task"] for group in groups] == [1, 2]
    assert groups[0]["images"][0] == groups[1]["images"][0]


def test_the_newest_annotation_counts_and_ground_truth_before_it(studio, tmp_path, monkeypatch):
    studio.annotate(2, drawn("new", LEFT, "saddle"), second=5)
    studio.exported(monkeypatch, "coco", tmp_path / "newest")
    assert (2, "new") in coco_of(tmp_path / "newest")[1]
    studio.tasks[2]["annotations"][0]["ground_truth"] = True
    studio.exported(monkeypatch, "coco", tmp_path / "truth")
    assert (2, "x") in coco_of(tmp_path / "truth")[1]
    studio.exported(monkeypatch, "coco", tmp_path / "all", "--annotations", "all")
    assert {(2, "x"), (2, "new")} <= set(coco_of(tmp_path / "all")[1])


def test_skipped_and_new_tasks_stay_out_and_predictions_only_on_request(
    studio, tmp_path, monkeypatch
):
    studio.files["/5/p.png"] = png(99)
    studio.annotate(studio.add_task("/4/s.png"), drawn("s", LEFT, "wheel"), was_cancelled=True)
    new = studio.add_task("/5/p.png")
    studio.predict(new, drawn("p", RIGHT, "saddle"))
    studio.predict(new, drawn("q", LEFT, "saddle"))
    summary = studio.exported(monkeypatch, "coco", tmp_path / "a")
    assert (summary["tasks"], summary["skipped"], summary["unannotated"]) == (2, 1, 1)
    summary = studio.exported(monkeypatch, "coco", tmp_path / "b", "--unreviewed")
    _, annotations = coco_of(tmp_path / "b")
    assert annotations[new, "q"]["reviewed"] is False
    assert annotations[new, "q"]["annotation"] is None
    assert (new, "p") not in annotations
    assert (summary["tasks"], summary["unreviewed"], summary["unannotated"]) == (3, 1, 0)


def test_a_missing_image_is_listed_and_the_rest_goes_on(studio, tmp_path, monkeypatch):
    del studio.files["/2/a.png"]
    result = studio.export(monkeypatch, "coco", tmp_path / "out")
    assert result.exit_code == 0
    assert "task 1.data.images[1]: not found (/2/a.png)" in result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert [failure["task"] for failure in summary["failed"]] == [1]
    assert summary["left_out"]["without_image"] == 1
    groups = json.loads((tmp_path / "out" / "groups.json").read_text())
    assert groups[0]["images"][1] is None


def test_images_without_masks_and_masks_of_another_size(studio, tmp_path, monkeypatch):
    studio.files |= {"/6/e.png": png(60), "/7/f.png": png(70)}
    empty, wrong = studio.add_task("/6/e.png"), studio.add_task("/7/f.png")
    studio.annotate(empty, [])
    studio.annotate(wrong, drawn("t", np.ones((4, 6), bool), "wheel"))
    summary = studio.exported(monkeypatch, "yolo-seg", tmp_path / "out")
    assert summary["left_out"]["wrong_size"] == 1
    sizes = [path.stat().st_size for path in (tmp_path / "out" / "labels").iterdir()]
    assert (len(sizes), sizes.count(0)) == (4, 2)


def test_a_region_drawn_twice_counts_once(studio, tmp_path, monkeypatch):
    studio.annotate(2, drawn("same", LEFT, "wheel"), second=9)
    summary = studio.exported(monkeypatch, "coco", tmp_path / "out")
    assert (summary["repeated"], summary["labels"]["wheel"]) == (1, 3)
    assert (2, "same") not in coco_of(tmp_path / "out")[1]
    studio.exported(monkeypatch, "mixedparts", tmp_path / "records")
    groups = read_groups(tmp_path / "records")
    assert 1 in {len(group.group) for group in groups}


def test_voc_lays_smaller_regions_on_larger_ones(studio, tmp_path, monkeypatch):
    summary = studio.exported(monkeypatch, "voc-png", tmp_path / "out")
    (image,) = [i["images"][0] for i in groups_of(tmp_path / "out") if i["task"] == 2]
    picture = Image.open(tmp_path / "out" / "SegmentationClass" / f"{image[:-4]}.png")
    assert picture.mode == "P"
    assert picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    classes = np.asarray(picture)
    # Of two labels the first of the config counts; the wheels hide all of the bike.
    assert (classes[12, 12], classes[20, 20], classes[20, 40], classes[0, 0]) == (1, 1, 1, 0)
    objects = np.asarray(Image.open(tmp_path / "out" / "SegmentationObject" / f"{image[:-4]}.png"))
    assert len({objects[12, 12], objects[20, 20], objects[20, 40], 0}) == 4
    names = (tmp_path / "out" / "labels.txt").read_text().splitlines()
    assert names == ["background", *LABELS]
    assert (summary["covered"], summary["hidden"], summary["further_labels"]) == (2, 1, 1)


def groups_of(folder):
    return json.loads((folder / "groups.json").read_text())


def test_too_many_labels_for_a_palette_are_refused(tmp_path, monkeypatch):
    studio = FakeStudio(config(*(f"l{n}" for n in range(255))))
    with pytest.raises(SettingsError, match="at most 254 labels"):
        studio.exported(monkeypatch, "voc-png", tmp_path / "out")


def test_records_are_read_by_our_own_commands(studio, tmp_path, monkeypatch):
    studio.exported(monkeypatch, "mixedparts", tmp_path / "out")
    groups = [group for group in read_groups(tmp_path / "out") if len(group.group) == 2]
    parts = {(p.kind, p.label, p.image_index): p.mask for group in groups for p in group.parts}
    # Both wheels of the first image are one mask, though only one of them is marked as common.
    assert np.array_equal(parts[RegionKind.COMMON_PART, "wheel", 0], LEFT)
    assert np.array_equal(parts[RegionKind.COMMON_PART, "wheel", 1], RIGHT)


def test_a_stopped_export_goes_on_without_fetching_again(studio, tmp_path, monkeypatch):
    studio.stop_at = "/3/copy of a.png"
    result = studio.export(monkeypatch, "coco", tmp_path / "out")
    assert "Run the same command again" in result.stderr
    assert not (tmp_path / "out").exists()
    assert studio.fetched == ["/1/a.png", "/2/a.png"]
    half = partial_folder(tmp_path / "out") / "fetched.jsonl"
    half.write_bytes(half.read_bytes() + b'{"address":"torn')
    studio.stop_at = None
    summary = studio.exported(monkeypatch, "coco", tmp_path / "out")
    assert studio.fetched == ["/1/a.png", "/2/a.png", "/3/copy of a.png"]
    assert (summary["images"], summary["reused_images"]) == (2, 2)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["annotations.json", "export.json", "groups.json", "images"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_copies_are_asked_for_after_links_were_and_are_copies(studio, tmp_path, monkeypatch):
    studio.folder, original = tmp_path, tmp_path / "a.png"
    original.write_bytes(studio.files["/1/a.png"])
    studio.stop_at = "/3/copy of a.png"
    studio.export(monkeypatch, "coco", tmp_path / "out", "--images", "link")
    studio.stop_at = None
    summary = studio.exported(monkeypatch, "coco", tmp_path / "out")
    images = list((tmp_path / "out" / "images").iterdir())
    assert len(images) == 2
    assert not any(image.samefile(original) for image in images)
    assert summary["linked_images"] == 0


def test_what_a_stopped_export_left_and_nobody_needs_is_removed(studio, tmp_path, monkeypatch):
    studio.stop_at = "/3/copy of a.png"
    studio.export(monkeypatch, "yolo-seg", tmp_path / "out")
    studio.stop_at = None
    studio.tasks[1]["annotations"].clear()
    studio.exported(monkeypatch, "coco", tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_linked_images_are_the_originals_and_turned_ones_are_rewritten(
    studio, tmp_path, monkeypatch
):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    turned = Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "a.png").write_bytes(studio.files["/1/a.png"])
    studio.files["/8/turned.jpg"] = (tmp_path / "turned.jpg").read_bytes()
    studio.annotate(studio.add_task("/8/turned.jpg"), drawn("t", LEFT, "wheel"))
    studio.folder = tmp_path
    del studio.files["/2/a.png"]
    summary = studio.exported(monkeypatch, "coco", tmp_path / "out", "--images", "link")
    coco, annotations = coco_of(tmp_path / "out")
    images = {
        image["id"]: tmp_path / "out" / "images" / image["file_name"]
        for image in coco.imgs.values()
    }
    assert images[1].samefile(tmp_path / "a.png")
    with Image.open(images[annotations[3, "t"]["image_id"]]) as rewritten:
        assert (rewritten.format, rewritten.size) == ("JPEG", (SIZE[1], SIZE[0]))
        assert rewritten.getexif().get(0x0112, 1) == 1
    assert (summary["linked_images"], summary["rewritten_images"]) == (1, 1)


def test_drawings_that_are_no_masks_are_counted_and_noted(studio, tmp_path, monkeypatch):
    point = drawn("k", LEFT, "saddle")[0] | {"type": "keypoint", "value": {"x": 1, "y": 1}}
    broken = drawn("r", LEFT, "saddle")
    broken[0] = broken[0] | {"value": {"format": "rle", "rle": [1, 2, 3]}}
    lost = drawn("l", LEFT, "bike", image=0)
    lost[0] = lost[0] | {"to_name": "another tag"}
    studio.tasks[2]["annotations"].clear()
    studio.annotate(2, [point, *drawn("k", LEFT, "saddle")[1:], *broken, *lost[:1]])
    summary = studio.exported(monkeypatch, "coco", tmp_path / "out")
    assert summary["left_out"]["unreadable"] == 3
    coco, _ = coco_of(tmp_path / "out")
    assert "saddle" in coco.imgs[1]["unknown"]


def test_open_names_are_categories_by_alphabet_and_kinds_stand_in_for_names(
    studio, tmp_path, monkeypatch
):
    studio.label_config = REPEATER_CONFIG
    for task, pair in ((1, ("rim", "Lid")), (2, ("Lid", "arm"))):
        studio.tasks[task]["annotations"].clear()
        found = results(("a", LEFT, pair[0]), ("b", RIGHT, pair[1], "common_object"))
        studio.annotate(task, found)
    studio.exported(monkeypatch, "coco", tmp_path / "names")
    coco, _ = coco_of(tmp_path / "names")
    assert [category["name"] for category in coco.cats.values()] == ["arm", "Lid", "rim"]
    studio.exported(monkeypatch, "mixedparts", tmp_path / "records")
    assert len(read_groups(tmp_path / "records")) >= 2
    text = next(line for line in REPEATER_CONFIG.splitlines() if "TextArea" in line)
    studio.label_config = REPEATER_CONFIG.replace(text, "")
    summary = studio.exported(monkeypatch, "coco", tmp_path / "kinds")
    # The second task shows the same picture with the same masks, which count once.
    kinds = {"common_object": 1, "common_part": 1, "unique_part": 0}
    assert summary["labels"] == kinds


def test_a_dry_run_counts_and_writes_nothing(studio, tmp_path, monkeypatch):
    summary = studio.exported(monkeypatch, "coco", tmp_path / "out", "--dry-run")
    assert summary["labels"] == {"wheel": 4, "saddle": 1, "bike": 1, "never drawn": 0}
    assert (summary["tasks"], summary["regions"], summary["left_out"]) == (
        2,
        5,
        {"without_label": 1},
    )
    assert studio.fetched == []
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_two_exports_into_one_are_refused(
    studio, tmp_path, monkeypatch
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with staged(tmp_path / "empty") as folder:
        (folder / "images").mkdir()
        with pytest.raises(SettingsError, match="another export writes to"):
            studio.exported(monkeypatch, "coco", tmp_path / "empty")
    (tmp_path / "empty" / "images").rmdir()
    studio.exported(monkeypatch, "coco", tmp_path / "link")
    assert (tmp_path / "empty" / "annotations.json").is_file()


def test_bad_input_is_one_sentence(studio, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match=r"--polygons: goes with --format coco"):
        studio.exported(monkeypatch, "voc-png", tmp_path / "out", "--polygons")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(SettingsError, match="expected a new or empty folder"):
        studio.exported(monkeypatch, "coco", tmp_path / "full")
    studio.files.clear()
    with pytest.raises(SettingsError, match="no image could be exported; task 1"):
        studio.exported(monkeypatch, "coco", tmp_path / "out")
    for task in studio.tasks.values():
        task["annotations"].clear()
    with pytest.raises(SettingsError, match="none of the 2 tasks"):
        studio.exported(monkeypatch, "coco", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_every_label_comes_out_of_the_yaml_as_it_went_in(tmp_path, monkeypatch):
    labels = (
        "a, b",
        "a & b",
        "\\ud83d",
        "null",
        "# 1: c",
        "\u00fcn\u00ef \u732b",
        "\U0001f600 face",
    )
    studio = FakeStudio(config(*(label.replace("&", "&amp;") for label in labels)))
    studio.files = {"/a.png": png(10)}
    studio.annotate(studio.add_task("/a.png"), drawn("r", LEFT, labels[-1]))
    studio.exported(monkeypatch, "yolo-seg", tmp_path / "yolo")
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert tuple(content["names"].values()) == labels
