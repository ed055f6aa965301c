"""`calico export` from a real Label Studio: uploads of one name, shared pictures, every format."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.connect import Ends
from backend.cli.demo import Demo
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.result import render_prediction
from calico_model.data.groups import read_groups
from calico_model.picture import read_rgb
from calico_model.types import GroupPrediction, PartMask, RegionKind
from tests.e2e.studio_api import delete_project
from tests.unit.export.fake_studio import config

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SIZE = (90, 120)
LABELS = ("wheel", "frame", "never drawn")


def call(client: LabelStudioClient, method: str, path: str, **options: Any) -> Any:
    headers = {"Authorization": client.authorization.header()}
    answer = httpx.request(
        method, client.url + path, headers=headers, timeout=60, trust_env=False, **options
    )
    assert answer.is_success, answer.text
    return answer.json()


def picture(shade: int, *, turned: bool = False) -> bytes:
    """A JPEG file; a turned one lies on its side and says so in EXIF."""
    pixels = np.full((*SIZE, 3), shade, np.uint8)
    pixels[:20, :30] = 255 - shade  # in one corner
    file, exif = io.BytesIO(), Image.Exif()
    if turned:
        exif[0x0112], pixels = 6, np.rot90(pixels)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def upload(client: LabelStudioClient, project_id: int, name: str, content: bytes) -> str:
    """Uploads an image; returns its address in Label Studio."""
    path = f"/api/projects/{project_id}/import?commit_to_project=false"
    answer = call(client, "POST", path, files={name: (name, content, "image/jpeg")})
    (number,) = answer["file_upload_ids"]
    stored = call(client, "GET", f"/api/import/file-upload/{number}")
    return f"/data/{stored['file']}"


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


WHEEL, OTHER, FRAME = box(50, 10, 80, 40), box(50, 70, 80, 100), box(20, 10, 80, 100)
FIRST = (
    PartMask(0, RegionKind.COMMON_PART, "wheel", WHEEL, part_id="w"),
    PartMask(1, RegionKind.COMMON_PART, "wheel", OTHER, part_id="w"),
    PartMask(0, RegionKind.COMMON_OBJECT, "frame", FRAME),
)
SECOND = (PartMask(1, RegionKind.UNIQUE_PART, "wheel", WHEEL),)


@pytest.fixture
def project(ends: Ends) -> Iterator[int]:
    found = ends.client.create_project("bikes", config(*LABELS))
    yield found.id
    delete_project(ends.client, found.id)


def fill(client: LabelStudioClient, project_id: int) -> list[int]:
    """Makes tasks: annotated in the editor, imported with its annotation, skipped, untouched."""
    schema = parse_label_config(config(*LABELS))

    def results(parts: tuple[PartMask, ...]) -> list[object]:
        truth = GroupPrediction(parts, "truth")
        found = render_prediction(truth, schema, sizes_hw=[SIZE, SIZE])
        return list(json.loads(found.result))

    first, second = (upload(client, project_id, "IMG 1.jpg", picture(n)) for n in (40, 90))
    turned = upload(client, project_id, "IMG 1.jpg", picture(150, turned=True))
    missing = "/data/upload/9999/gone.jpg"
    tasks: list[dict[str, object]] = [
        {"data": {"images": [first, second]}},
        {
            "data": {"images": [first, turned, missing]},
            "annotations": [{"result": results(SECOND)}],
        },
        {"data": {"images": [second]}},
        {"data": {"images": [first]}},
    ]
    ids = list(client.import_tasks(project_id, tasks))
    path = f"/api/tasks/{ids[0]}/annotations/"
    call(client, "POST", path, json={"result": results(FIRST), "lead_time": 1})
    skip = {"result": [], "was_cancelled": True}
    call(client, "POST", f"/api/tasks/{ids[2]}/annotations/", json=skip)
    return ids


def export(client: LabelStudioClient, key: str, project_id: int, kind: str, to: Path) -> Any:
    words = ["export", "--project", str(project_id), "--format", kind, "--to", str(to)]
    words += ["--url", client.url, "--api-key", key]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_a_project_of_groups_is_exported_in_every_format(
    demo: Demo, ends: Ends, project: int, tmp_path: Path
) -> None:
    check_formats(ends.client, demo.state.account.api_key, project, tmp_path)


def check_formats(client: LabelStudioClient, key: str, project: int, folder: Path) -> None:
    ids = fill(client, project)
    summary = export(client, key, project, "coco", folder / "coco")
    assert {name: summary[name] for name in ("tasks", "skipped", "unannotated", "images")} == {
        "tasks": 2,
        "skipped": 1,
        "unannotated": 1,
        "images": 3,
    }
    assert [failure["task"] for failure in summary["failed"]] == [ids[1]]
    assert summary["rewritten_images"] == 1
    coco = COCO(str(folder / "coco" / "annotations.json"))
    drawn = {
        (found["task"], found["image_id"], found["area"]): found for found in coco.anns.values()
    }
    assert np.array_equal(coco.annToMask(drawn[ids[0], 1, FRAME.sum()]), FRAME)
    assert np.array_equal(coco.annToMask(drawn[ids[1], 3, WHEEL.sum()]), WHEEL)
    assert coco.imgs[1]["tasks"] == ids[:2]
    for number, shade in ((1, 40), (2, 90), (3, 150)):
        path = folder / "coco" / "images" / coco.imgs[number]["file_name"]
        assert path.name.startswith("IMG_1-") or "IMG_1" in path.name
        pixels = np.asarray(Image.open(path)).astype(int)  # as readers do that know no EXIF
        assert pixels.shape == (*SIZE, 3)
        assert abs(pixels[60, 60] - shade).max() < 5
        assert abs(pixels[5, 5] - (255 - shade)).max() < 9
        assert np.array_equal(pixels, read_rgb(path))

    export(client, key, project, "yolo-seg", folder / "yolo")
    lines = [path.read_text().splitlines() for path in (folder / "yolo" / "labels").iterdir()]
    assert sorted(len(found) for found in lines) == [1, 1, 2]
    summary = export(client, key, project, "voc-png", folder / "voc")
    assert (summary["covered"], summary["hidden"]) == (1, 0)
    stem = coco.imgs[1]["file_name"].rpartition(".")[0]
    classes = np.asarray(Image.open(folder / "voc" / "SegmentationClass" / f"{stem}.png"))
    assert np.array_equal(classes, np.where(WHEEL, 1, np.where(FRAME, 2, 0)))
    export(client, key, project, "mixedparts", folder / "records")
    labels = {part.label for group in read_groups(folder / "records") for part in group.parts}
    assert labels == {"wheel", "frame"}
