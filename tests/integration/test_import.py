"""`calico import` from a folder to tasks, against a Label Studio that keeps a project in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backend.cli import command_tree, connect
from backend.errors import LabelStudioError, SettingsError
from backend.label_studio.annotation import parse_drawing
from backend.label_studio.group_config import text_config
from backend.label_studio.label_config import parse_label_config
from calico_model.types import RegionKind
from tests.unit.cli.photo_files import URL, PhotoStudio, draw
from tests.unit.label_studio.golden_files import config

CLOSED, OPEN = config("cosegment_labels"), config("cosegment_open")
TAGS = (
    "<View>"
    + "".join(
        f'<Image name="i{n}" value="$photo{n}"/>'
        f'<BrushLabels name="m{n}" toName="i{n}"><Label value="a"/></BrushLabels>'
        for n in range(3)
    )
    + "</View>"
)


@pytest.fixture
def photos(tmp_path):
    """Two folders that are groups, and a copy."""
    folder = tmp_path / "files" / "photos"
    for seed, name in enumerate(("a/1.jpg", "a/2.jpg", "b/1.png", "b/2.webp", "b/3.JPG")):
        draw(folder / name, seed)
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command at a Label Studio; returns its last line."""

    def start(studio, *arguments):
        monkeypatch.setattr(connect, "connect_client", lambda settings: studio.client())
        words = ["import", *map(str, arguments), "--data-dir", str(tmp_path / "data")]
        words += ["--url", URL, "--api-key", "0" * 40]
        result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.splitlines()[-1])

    return start


def test_folders_become_tasks_that_label_studio_serves(run, photos):
    studio = PhotoStudio(CLOSED, root=photos.parent)
    report = run(studio, photos, "--project", 7)
    assert report["group_by"] == "folder"
    assert report["files"] == "served"
    assert (report["imported_groups"], report["imported_photographs"]) == (2, 5)
    served = "/data/local-files/?d=photos/"
    assert studio.images() == [
        [f"{served}a/1.jpg", f"{served}a/2.jpg"],
        [f"{served}b/1.png", f"{served}b/2.webp", f"{served}b/3.JPG"],
    ]
    assert studio.storages == [str(photos.resolve())]


def test_a_second_run_imports_only_what_is_new(run, photos):
    studio = PhotoStudio(CLOSED, root=photos.parent)
    run(studio, photos, "--project", 7)
    draw(photos / "c/1.jpg", 11)
    draw(photos / "c/2.jpg", 12)
    (photos / "c/3.jpg").write_bytes((photos / "a/1.jpg").read_bytes())
    draw(photos / "c/4.jpg", 1, quality=50)  # a/2.jpg saved again
    report = run(studio, photos, "--project", 7)
    assert report["imported_photographs"] == 2
    assert report["already_imported"] == 6
    assert report["near_duplicates"] == 1
    assert len(studio.tasks) == 3
    assert len(studio.storages) == 1


def test_files_that_cannot_be_read_do_not_count_as_photographs(run, photos):
    whole = (photos / "a/1.jpg").read_bytes()
    broken = {"a/empty.jpg": b"", "a/half.jpg": whole[: len(whole) // 2], "a/text.jpg": b"text"}
    for name, content in broken.items():
        (photos / name).write_bytes(content)
    (photos / "b/phone.heic").write_bytes(b"a picture that browsers do not show")
    studio = PhotoStudio(CLOSED, root=photos.parent)
    report = run(studio, photos, "--project", 7, "--group-by", "similarity", "--group-size", "1-2")
    assert (report["photographs"], report["skipped_files"]) == (5, len(broken) + 1)
    assert (report["encoded"], report["imported_photographs"]) == (5, 5)


def test_an_import_that_broke_goes_on_where_it_was(run, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.cli.photo_import._BATCH", 2)
    folder = tmp_path / "files" / "many"
    for number in range(12):
        draw(folder / f"{number // 2}" / f"{number % 2}.jpg", number)
    studio = PhotoStudio(CLOSED, root=folder.parent)
    studio.fail_after = 2
    with pytest.raises(LabelStudioError, match="cannot be reached"):
        run(studio, folder, "--project", 7)
    assert len(studio.tasks) == 4
    studio.fail_after = None
    report = run(studio, folder, "--project", 7)
    assert report["imported_groups"] == 2
    addresses = [url for images in studio.images() for url in images]
    assert len(addresses) == len(set(addresses)) == 12


def test_folders_become_series_in_pieces_that_share_an_image(run, tmp_path):
    folder = tmp_path / "files" / "frames"
    for number in range(1, 12):  # near duplicates, as frames are
        draw(folder / "long" / f"f{number}.jpg", 1, size=(64, 48 + number % 2))
    draw(folder / "short" / "f1.jpg", 20)
    studio = PhotoStudio(OPEN, root=folder.parent)
    report = run(studio, folder, "--project", 7, "--series", "--group-size", "2-5")
    names = [[url.rpartition("/")[2] for url in images] for images in studio.images()]
    assert names == [
        ["f1.jpg", "f2.jpg", "f3.jpg", "f4.jpg", "f5.jpg"],
        ["f5.jpg", "f6.jpg", "f7.jpg", "f8.jpg", "f9.jpg"],
        ["f9.jpg", "f10.jpg", "f11.jpg"],
        ["f1.jpg"],
    ]
    assert all(task["data"]["series"] is True for task in studio.tasks)
    assert (report["imported_groups"], report["already_imported"]) == (4, 0)
    assert run(studio, folder, "--project", 7, "--series", "--group-size", "2-5")["groups"] == 0
    draw(folder / "next" / "f1.jpg", 30)
    draw(folder / "next" / "f2.jpg", 31)
    assert run(studio, folder, "--project", 7, "--series", "--group-size", "2-5")["groups"] == 1


def test_a_series_that_broke_goes_on_where_it_was(run, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.cli.photo_import._BATCH", 1)
    folder = tmp_path / "files" / "frames"
    for number in range(1, 8):
        draw(folder / f"f{number}.jpg", number)
    studio = PhotoStudio(CLOSED, root=folder.parent)
    studio.fail_after = 1
    with pytest.raises(LabelStudioError, match="cannot be reached"):
        run(studio, folder, "--project", 7, "--series", "--group-size", "2-4")
    studio.fail_after = None
    run(studio, folder, "--project", 7, "--series", "--group-size", "2-4")
    assert [[url[-6:-4] for url in images] for images in studio.images()] == [
        ["f1", "f2", "f3", "f4"],
        ["f4", "f5", "f6", "f7"],
    ]


def test_a_text_beside_the_photographs_comes_along_where_the_config_shows_one(run, photos):
    (photos / "a" / "1.txt").write_text("A chair with four legs.\n", "utf-8")
    studio = PhotoStudio(text_config(), root=photos.parent)
    run(studio, photos, "--project", 7)
    assert [task["data"]["text"] for task in studio.tasks] == ["A chair with four legs.", ""]
    plain = PhotoStudio(OPEN, root=photos.parent)
    run(plain, photos, "--project", 7)
    assert "text" not in plain.tasks[0]["data"]


def test_files_that_label_studio_does_not_serve_are_uploaded(run, photos):
    studio = PhotoStudio(CLOSED)
    report = run(studio, photos, "--project", 7)
    assert report["files"] == "copied"
    first = studio.images()[0][0]
    assert studio.uploads[first.removeprefix("/data/")] == (photos / "a/1.jpg").read_bytes()
    assert sum(map(len, studio.images())) == len(studio.uploads) == 5
    with pytest.raises(SettingsError, match="--serve: Label Studio does not serve"):
        run(studio, photos, "--project", 7, "--serve")


def test_files_that_a_task_shows_already_are_known_without_a_hash(run, photos):
    studio = PhotoStudio(CLOSED, root=photos.parent)
    data = {"images": ["/data/local-files/?d=photos/a/1.jpg"]}
    studio.tasks.append({"id": 1, "data": data, "meta": {}})
    report = run(studio, photos, "--project", 7)
    assert report["already_imported"] == 1
    assert report["imported_photographs"] == 4


def test_photographs_are_grouped_by_what_they_show(run, tmp_path):
    folder = tmp_path / "mixed"
    for number in range(6):
        draw(folder / f"{number}.jpg", number)
    sheet = tmp_path / "sheet.png"
    report = run(PhotoStudio(CLOSED), folder, "--dry-run", "--preview", sheet, "--group-size", "3")
    assert report["group_by"] == "similarity"
    assert (report["groups"], report["imported_groups"], report["encoded"]) == (2, 0, 6)
    with Image.open(sheet) as drawn:
        assert min(drawn.size) > 200
    again = run(PhotoStudio(CLOSED), folder, "--project", 7)
    assert again["encoded"] == 0
    assert again["imported_photographs"] == 6


def test_a_sheet_that_cannot_be_drawn_is_refused_before_photographs_are_read(
    run, photos, monkeypatch
):
    def read(*_, **__):
        raise AssertionError

    monkeypatch.setattr("backend.cli.photo_import.survey", read)
    with pytest.raises(SettingsError, match="--preview: expected a .jpg"):
        run(PhotoStudio(CLOSED), photos, "--dry-run", "--preview", "sheet.tiff")


def test_repeated_pictures_come_into_groups_apart_on_request(run, photos):
    draw(photos / "a/1 small.jpg", 0, size=(56, 42))
    studio = PhotoStudio(CLOSED, root=photos.parent)
    report = run(studio, photos, "--project", 7, "--keep-near-duplicates")
    assert report["near_duplicates"] == 1
    assert report["imported_photographs"] == 6
    assert sorted(map(len, studio.images())) == [1, 2, 3]


def test_a_config_of_single_images_limits_groups(run, photos):
    studio = PhotoStudio(TAGS, root=photos.parent)
    report = run(studio, photos, "--project", 7)
    assert report["group_size"] == [1, 3]
    assert [set(task["data"]) for task in studio.tasks] == [{"photo0", "photo1", "photo2"}] * 2
    assert studio.tasks[0]["data"]["photo2"] == ""
    with pytest.raises(SettingsError, match="--group-size: expected at most 3"):
        run(studio, photos, "--project", 7, "--group-size", "4-5")


def coco(folder: Path, **names: str) -> Path:
    """Masks of the photographs of folder a: names by category, each one square."""
    images, annotations, categories = [], [], []
    for number, file in enumerate(("a/1.jpg", "a/2.jpg"), start=1):
        images.append({"id": number, "file_name": file, "width": 64, "height": 48})
    for number, (name, above) in enumerate(names.items(), start=1):
        categories.append({"id": number, "name": name.replace("__", " "), "supercategory": above})
        for image in (1, 2) if number == 1 else (1,):
            left = 6 * number
            square = [left, 10, left + 5, 10, left + 5, 20, left, 20]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": number,
                    "segmentation": [square],
                }
            )
    path = folder / "labels.json"
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))
    return path


def test_masks_come_along_as_annotations_once(run, photos, tmp_path):
    labels = coco(tmp_path, left__leg="chair", seat="chair")
    studio = PhotoStudio(CLOSED, root=photos.parent)
    report = run(studio, photos, "--project", 7, "--labels", labels)
    assert report["labels"] == {
        "as": "annotations",
        "groups": 1,
        "regions": 3,
        "already_labeled": 0,
        "photographs": 2,
        "masks": 3,
        "crowds": 0,
        "without_image": 0,
        "problems": 0,
        "unknown_labels": [],
    }
    (annotation,) = studio.annotations
    drawing = parse_drawing(json.dumps(annotation["result"]).encode(), parse_label_config(CLOSED))
    found = {(region.image_index, region.label, region.kind) for region in drawing.regions}
    assert found == {
        (0, "leg", RegionKind.COMMON_PART),
        (1, "leg", RegionKind.COMMON_PART),
        (0, "seat", RegionKind.UNIQUE_PART),
    }
    leg = next(region for region in drawing.regions if region.label == "leg")
    assert np.argwhere(leg.mask).min(axis=0).tolist() == [10, 6]
    again = run(studio, photos, "--project", 7, "--labels", labels)
    assert again["labels"]["already_labeled"] == 1
    assert len(studio.annotations) == 1


def test_masks_come_along_as_predictions_in_a_later_run(run, photos, tmp_path):
    studio = PhotoStudio(OPEN, root=photos.parent)
    run(studio, photos, "--project", 7)
    labels = coco(tmp_path, chair="object", leg="part")
    for expected in (1, 0):
        report = run(studio, photos, "--project", 7, "--labels", labels, "--as", "predictions")
        assert report["labels"]["groups"] == expected
    (prediction,) = studio.predictions
    assert prediction["model_version"] == "imported labels"
    assert prediction["task"] == 1


def test_masks_of_a_photograph_that_the_file_lists_twice_all_come_along(run, photos, tmp_path):
    labels = coco(tmp_path, leg="chair", seat="chair")
    merged = json.loads(labels.read_text())
    merged["images"].append(merged["images"][0] | {"id": 9, "file_name": "./a/1.jpg"})
    for annotation in merged["annotations"]:
        if annotation["category_id"] == 2:
            annotation["image_id"] = 9
    labels.write_text(json.dumps(merged))
    studio = PhotoStudio(CLOSED, root=photos.parent)
    report = run(studio, photos, "--project", 7, "--labels", labels)
    assert report["labels"]["regions"] == 3


def test_labels_that_the_config_lacks_are_named_before_anything_is_imported(run, photos, tmp_path):
    labels = coco(tmp_path, leg="chair", propeller="plane", rudder="plane")
    studio = PhotoStudio(CLOSED, root=photos.parent)
    with pytest.raises(SettingsError, match="project 7 lacks 'propeller', 'rudder'; add them"):
        run(studio, photos, "--project", 7, "--labels", labels)
    assert studio.tasks == []
    report = run(studio, photos, "--project", 7, "--labels", labels, "--skip-unknown-labels")
    assert report["labels"]["regions"] == 2
    assert report["labels"]["unknown_labels"] == ["propeller", "rudder"]


def test_a_category_without_a_name_is_told_and_the_rest_comes_along(run, photos, tmp_path):
    labels = coco(tmp_path, leg="chair", **{" ": "chair"})
    studio = PhotoStudio(CLOSED, root=photos.parent)
    report = run(studio, photos, "--project", 7, "--labels", labels)
    assert (report["labels"]["problems"], report["labels"]["regions"]) == (1, 2)
    assert report["labels"]["unknown_labels"] == []


def test_what_other_tools_write_is_read_and_what_is_not_read_is_counted(run, photos, tmp_path):
    labels = coco(tmp_path, leg="chair", seat="chair")
    document = json.loads(labels.read_text())
    document["categories"][0]["supercategory"] = None
    square = document["annotations"][0]
    document["annotations"] += [
        square | {"id": 11, "iscrowd": 1},
        square | {"id": 12, "image_id": 77},
        {"id": 13, "image_id": 1, "category_id": 1},
        square | {"id": 14, "segmentation": None},
    ]
    labels.write_text(json.dumps(document))
    studio = PhotoStudio(CLOSED, root=photos.parent)
    asked = (photos, "--project", 7, "--labels", labels)
    report = run(studio, *asked, "--dry-run")["labels"]
    assert studio.tasks == studio.annotations == []
    counts = {"photographs": 2, "masks": 5, "crowds": 1, "without_image": 1}
    assert {name: report[name] for name in counts} == counts
    report = run(studio, *asked)["labels"]
    assert {name: report[name] for name in counts} == counts
    assert (report["regions"], report["problems"]) == (3, 2)


def test_masks_of_another_size_are_told(run, photos, tmp_path):
    labels = coco(tmp_path, leg="chair")
    draw(photos / "a/1.jpg", 0, size=(80, 60))
    studio = PhotoStudio(CLOSED, root=photos.parent)
    report = run(studio, photos, "--project", 7, "--labels", labels)
    assert (report["labels"]["problems"], report["labels"]["regions"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--project: expected the id"),
        (["--dry-run", "--name-pattern", "("], "--name-pattern: expected a regular expression"),
        (
            ["--dry-run", "--name-pattern", "x", "--group-by", "time"],
            "--name-pattern: expected --group-by name",
        ),
        (["--dry-run", "--group-by", "time", "--gap", "inf"], "--gap: expected a number of"),
        (["--dry-run", "--series", "--group-by", "time"], "--series: expected no --group-by"),
        (["--dry-run", "--series", "--group-size", "1"], "--group-size: expected 2 images"),
        (["--dry-run", "--preview", "sheet.txt"], "--preview: expected a .jpg"),
    ],
)
def test_options_that_cannot_be_used_are_refused(run, photos, options, message):
    with pytest.raises(SettingsError, match=message):
        run(PhotoStudio(CLOSED), photos, *options)
