"""`calico predict` from pictures to files, with a predictor that draws boxes."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from typer.testing import CliRunner, Result

from backend.cli import command_tree
from backend.cli import predict as predict_module
from backend.cli.prediction_files import as_coco
from calico_model.errors import CheckpointError, InvalidConfigError, InvalidImageError
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind

# pycocotools 2.0.11 decodes with a numpy 1 habit
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class BoxPredictor:
    """Finds the upper half of every image as a lid, and an arm in the first."""

    version = "boxes-1"

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, group: ImageGroup) -> GroupPrediction:
        self.calls += 1
        parts = []
        for index, (height, width) in enumerate(group.sizes_hw):
            mask = np.zeros((height, width), dtype=bool)
            mask[: height // 2] = True
            parts.append(PartMask(index, RegionKind.COMMON_PART, "lid", mask, "pot", "p0", 0.75))
        arm = np.zeros(group.sizes_hw[0], dtype=bool)
        arm[-2:, :3] = True
        parts.append(PartMask(0, RegionKind.UNIQUE_PART, "arm", arm, "pot", None, 0.5))
        return GroupPrediction(tuple(parts), self.version, {"common_part": "a lid"})


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> BoxPredictor:
    predictor = BoxPredictor()
    monkeypatch.setattr(predict_module, "load_weights", lambda *_: predictor)
    return predictor


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for path, size in zip(paths, [(30, 20), (40, 50)], strict=True):
        Image.new("RGB", size, (90, 120, 60)).save(path)
    return paths


def run(*arguments: object) -> Result:
    words = ["predict", *map(str, arguments)]
    return CliRunner().invoke(command_tree(words), words)


def test_writes_pictures_and_one_json_line(
    boxes: BoxPredictor, pictures: list[Path], tmp_path: Path
) -> None:
    result = run(*pictures, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert (line["images"], line["regions"], line["warm_s"]) == (2, 3, None)
    assert line["peak_rss_mib"] > 10
    assert boxes.calls == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    overlays = {"1_a_overlay.png", "2_b_overlay.png", "sheet.png"}
    assert names == overlays | {"prediction.json", "coco.json"}
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 640


def test_a_second_prediction_is_timed_on_request(
    boxes: BoxPredictor, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def now() -> float:
        """A clock by which the first prediction takes 5 s and the second one 2 s."""
        return (100.0, 105.0, 107.0)[boxes.calls]

    monkeypatch.setattr(predict_module, "time", SimpleNamespace(perf_counter=now))
    result = run(*pictures, "--out", tmp_path / "out", "--repeat-json")
    line = json.loads(result.stdout.splitlines()[-1])
    assert (line["load_s"], line["first_s"], line["warm_s"]) == (0.0, 5.0, 2.0)
    assert boxes.calls == 2


@pytest.mark.usefixtures("boxes")
def test_prediction_file_holds_every_mask(pictures: list[Path], tmp_path: Path) -> None:
    run(*pictures, "--out", tmp_path / "out")
    document = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert document["version"] == "boxes-1"
    assert [image["file"] for image in document["images"]] == [str(path) for path in pictures]
    lid = document["regions"][1]
    assert (lid["image"], lid["label"], lid["kind"]) == (1, "lid", "common_part")
    assert (lid["object_label"], lid["part_id"], lid["score"]) == ("pot", "p0", 0.75)
    assert lid["bbox"] == [0.0, 0.0, 40.0, 25.0]
    assert lid["area"] == 40 * 25
    mask = coco_mask.decode(lid["segmentation"])
    assert mask.shape == (50, 40)
    assert mask[:25].all()
    assert not mask[25:].any()


@pytest.mark.usefixtures("boxes")
def test_coco_file_is_read_by_pycocotools(pictures: list[Path], tmp_path: Path) -> None:
    run(*pictures, "--out", tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "out" / "coco.json")
    assert [image["file_name"] for image in coco.loadImgs([1, 2])] == ["a.png", "b.jpg"]
    lids = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(catNms=["lid"])))
    assert [annotation["image_id"] for annotation in lids] == [1, 2]
    assert coco.annToMask(lids[0])[:10].all()
    assert coco.annToMask(lids[0]).sum() == lids[0]["area"] == 30 * 10


@pytest.mark.usefixtures("boxes")
def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("x/a.png", "y/a.png", "y/z/b.png")]
    found = as_coco(files, group_of(3), GroupPrediction((), "v", {}))
    assert [image["file_name"] for image in found["images"]] == ["x/a.png", "y/a.png", "y/z/b.png"]
    deep = [tmp_path / name for name in ("x/1/a.png", "x/2/a.png")]
    found = as_coco(deep, group_of(2), GroupPrediction((), "v", {}))
    assert [image["file_name"] for image in found["images"]] == ["1/a.png", "2/a.png"]
    found = as_coco([files[0], files[0], files[2]], group_of(3), GroupPrediction((), "v", {}))
    assert [image["file_name"] for image in found["images"]] == ["a.png", "a.png", "b.png"]


def group_of(count: int) -> ImageGroup:
    pixels = np.zeros((4, 5, 3), np.uint8)
    return ImageGroup((pixels,) * count, tuple(map(str, range(count))))


def test_same_file_twice_is_two_images(pictures: list[Path], tmp_path: Path) -> None:
    result = run(pictures[0], pictures[0], "--out", tmp_path / "out")
    assert json.loads(result.stdout.splitlines()[-1])["images"] == 2
    assert (tmp_path / "out" / "2_a_overlay.png").is_file()


@pytest.mark.usefixtures("boxes")
def test_nine_images_are_refused(pictures: list[Path], tmp_path: Path) -> None:
    result = run(*pictures[:1] * 9, "--out", tmp_path / "out")
    assert isinstance(result.exception, InvalidImageError)
    assert str(result.exception) == "IMAGES: expected 1 to 8 pictures, got 9"
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("boxes")
def test_bad_picture_is_named(pictures: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:40])
    for path, reason in [(broken, "no readable picture"), (tmp_path / "gone.png", "no such file")]:
        result = run(pictures[0], path, "--out", tmp_path / "out")
        assert isinstance(result.exception, InvalidImageError)
        assert str(result.exception).startswith(f"{path}: ")
        assert reason in str(result.exception)


@pytest.mark.usefixtures("boxes")
def test_out_must_not_be_a_file(pictures: list[Path]) -> None:
    result = run(pictures[0], "--out", pictures[1])
    assert isinstance(result.exception, InvalidConfigError)
    assert str(result.exception).startswith("--out: expected a folder")


def test_missing_weights_are_named(pictures: list[Path], tmp_path: Path) -> None:
    result = run(pictures[0], "--out", tmp_path / "out", "--weights", tmp_path / "none")
    assert isinstance(result.exception, CheckpointError)
    assert "none" in str(result.exception)
