"""docs/tutorial.md, typed from start to end: a folder of photographs becomes a YOLO and a COCO set.

The commands are read from the page. With CALICO_SCREENSHOTS=docs/screenshots it also writes the
page's pictures, tutorial-*.png.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page
from pycocotools.coco import COCO

from backend.cli.daemon import Daemon
from backend.cli.label_studio_process import (
    HOST,
    PRIVATE_CALLS,
    Account,
    free_port,
    installed_label_studio,
    new_account,
    start_label_studio,
)
from backend.label_studio.annotation import parse_regions
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.label_config import parse_label_config
from backend.types import StoredPrediction
from calico_model.types import BoolMask, ImageGroup, LabeledGroup, RegionKind
from tests.e2e.annotator import PATIENCE_S, correct, leave_truth, model_state, sign_in, wait
from tests.e2e.editor import STORE, open_task
from tests.e2e.generated_photos import cart_groups
from tests.e2e.tutorial_page import Typist, environment_of, exported, read_steps
from tests.e2e.unseen_project import UnseenProject

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

PHOTOGRAPHS, CORRECTED = 40, 6
LABELS = ["cart", "window", "wheel"]
WINDOW = {"width": 1500, "height": 800}
MAX_BYTES = 150_000
_PORTS = {"studio": 8280, "backend": 9290}


@dataclass(frozen=True)
class Desk:
    """Everything that steps 2 and 3 of the page start."""

    client: LabelStudioClient
    account: Account
    typist: Typist
    truth: dict[str, tuple[LabeledGroup, int]]

    @property
    def folder(self) -> Path:
        return self.typist.folder


@pytest.fixture
def desk(scratch: Path) -> Iterator[Desk]:
    """Label Studio and `calico serve` as the page starts them, beside a folder of photographs."""
    folder = scratch / "tutorial"
    steps, account, port = read_steps(), new_account(), free_port(_PORTS["backend"])
    studio, backend = Daemon("label-studio", folder / "logs"), Daemon("backend", folder / "logs")
    truth = _write_photographs(folder / "photographs")
    (folder / "no-files").mkdir()
    assert exported(steps[2]) == PRIVATE_CALLS
    try:
        url = start_label_studio(
            studio,
            folder / "label-studio",
            free_port(_PORTS["studio"]),
            account,
            files=folder / "no-files",  # photographs are uploaded, as to any Label Studio
            installed=installed_label_studio(),
        )
        values = {"LABEL_STUDIO_URL": url, "LABEL_STUDIO_API_KEY": account.api_key}
        here = {"HOME": str(folder), "CALICO_PORT": str(port), "PYTHONPATH": ":".join(sys.path)}
        assert exported(steps[3]) == exported(steps[4])
        typist = Typist(folder, environment_of(steps[4], values, here))
        (serve,) = typist.step(3)
        shell = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(folder), *typist.words(serve)]
        backend.start(shell, typist.environment)
        wait(lambda: model_state(f"http://{HOST}:{port}") == "ready")
        client = LabelStudioClient(url, account.api_key)
        yield Desk(client, account, typist, truth)
        client.close()
    finally:
        backend.stop()
        studio.stop()


def _write_photographs(folder: Path) -> dict[str, tuple[LabeledGroup, int]]:
    """Writes the photographs; returns the truth and its place in it, by the name of the file."""
    folder.mkdir(parents=True)
    truth = {}
    for number, group in enumerate(cart_groups(PHOTOGRAPHS // 2, seed=11)):
        for place, image in enumerate(group.group.images):
            name = f"cart-{2 * number + place:02}.jpg"
            Image.fromarray(np.asarray(image)).save(folder / name, quality=95)
            truth[name] = (group, place)
    return truth


@pytest.fixture
def page(browser: Browser, desk: Desk) -> Iterator[Page]:
    context = browser.new_context(viewport=WINDOW)
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    sign_in(page, desk.client.url, desk.account.user, desk.account.password)
    yield page
    context.close()


def test_a_folder_of_photographs_becomes_a_data_set(
    page: Page, desk: Desk, screenshots: Path | None
) -> None:
    typist, began = desk.typist, time.monotonic()
    figures: dict[str, object] = {}

    def passed(name: str) -> None:
        figures[name] = round(time.monotonic() - began)

    (new_project,) = typist.step(4)
    made, _ = typist.type(new_project)
    assert made["connected"] is True
    typist.project_id = int(made["project"])

    look, bring = typist.step(5)
    seen, _ = typist.type(look)
    assert (seen["photographs"], seen["groups"], seen["imported_groups"]) == (PHOTOGRAPHS, 20, 0)
    said, _ = typist.type(bring)
    assert (said["imported_groups"], said["imported_photographs"]) == (20, PHOTOGRAPHS)
    assert said["files"] == "copied"
    project = _project(desk, typist.project_id)
    passed("imported_s")

    (predict,) = typist.step(6)
    said, _ = typist.type(predict)
    assert (said["tasks"], said["predicted"], said["failed"]) == (20, 20, 0)
    shipped, tasks = said["version"], sorted(project.truth)
    assert not any(_newest(desk, project, task).regions for task in tasks)
    passed("predicted_s")

    figures["box_iou"] = _correct(page, desk, project, tasks[:CORRECTED], screenshots)
    typist.step(7)
    passed("corrected_s")

    train, status = typist.step(8)
    typist.type(train)
    version = wait(lambda: _learned(typist.type(status)[0]))
    passed("learned_s")

    again, review = typist.step(9)
    said, _ = typist.type(again)
    assert (said["tasks"], said["failed"]) == (20, 0)
    assert said["version"] != shipped
    found = {task: _newest(desk, project, task) for task in tasks[CORRECTED:]}
    assert all(one.regions for one in found.values())
    quality = [project.quality(task, one.regions) for task, one in found.items()]
    figures |= {"version": version, "mean_iou": round(float(np.mean(quality)), 3)}
    figures["worst_iou"] = round(min(quality), 3)
    assert np.mean(quality) >= 0.5
    said, shown = typist.type(review)
    assert sorted(said["order"]) == tasks[CORRECTED:]
    assert "Look at these first" in shown
    assert said["view"] in shown
    passed("reviewed_s")

    yolo, coco = typist.step(10)
    summary, _ = typist.type(yolo)
    assert (summary["tasks"], summary["images"]) == (CORRECTED, 2 * CORRECTED)
    typist.type(coco)
    _check_yolo(desk.folder / yolo.split()[-1])
    _check_coco(desk.folder / coco.split()[-1], desk.truth)
    passed("exported_s")
    typed = {number for number, lines in read_steps().items() if any("calico " in x for x in lines)}
    assert typist.typed >= typed, "a step of the page was not typed"

    print(json.dumps(figures))  # noqa: T201
    if screenshots is not None:
        _take_sheet(desk.folder / look.split()[-1], screenshots / "tutorial-groups.png")
        best = max(found, key=lambda task: project.quality(task, found[task].regions))
        open_task(page, desk.client.url, project.id, best, regions=len(found[best].regions))
        _take(page, screenshots / "tutorial-predicted.png")
        page.goto(str(said["view"]))
        page.locator("img[alt=Data]").nth(5).wait_for()
        page.wait_for_load_state("networkidle")
        _take(page, screenshots / "tutorial-review.png")


def _project(desk: Desk, project_id: int) -> UnseenProject:
    """The project, with the truth of each of its groups."""
    schema = parse_label_config(desk.client.project(project_id).label_config)
    truth = {}
    for task in desk.client.raw_tasks(project_id):
        addresses: Any = task["data"]
        # Label Studio puts a few characters before the name of an uploaded file.
        names = [url.rpartition("/")[2].partition("-")[2] for url in addresses["images"]]
        truth[int(str(task["id"]))] = _joined([desk.truth[name] for name in names], names)
    return UnseenProject(project_id, schema, dict(sorted(truth.items())))


def _joined(photographs: list[tuple[LabeledGroup, int]], names: list[str]) -> LabeledGroup:
    """The truth of a group that the import has put together."""
    images = tuple(group.group.images[place] for group, place in photographs)
    parts = [
        replace(part, image_index=to)
        for to, (group, place) in enumerate(photographs)
        for part in group.parts
        if part.image_index == place
    ]
    parts.sort(key=lambda part: part.kind is not RegionKind.COMMON_OBJECT)
    return LabeledGroup(ImageGroup(images, tuple(names)), tuple(parts))


def _newest(desk: Desk, project: UnseenProject, task_id: int) -> StoredPrediction:
    return max(desk.client.predictions(task_id, project.schema), key=lambda one: one.id or 0)


def _correct(
    page: Page, desk: Desk, project: UnseenProject, tasks: list[int], screenshots: Path | None
) -> float:
    """Corrects groups in the editor, the first one beginning with a box; returns the box's IoU."""
    first, *others = tasks
    open_task(page, desk.client.url, project.id, first, regions=0)
    (window,) = (
        part.mask
        for part in project.truth[first].parts
        if part.label == "window" and part.image_index == 0
    )
    iou = _box(page, project, window, "window", screenshots)
    assert iou >= 0.5
    leave_truth(page, project, first)
    for task in others:
        correct(page, desk.client.url, project, task, 0)
    return round(iou, 2)


def _box(
    page: Page, project: UnseenProject, part: BoolMask, label: str, screenshots: Path | None
) -> float:
    """Draws a box around a part of the first image; returns the IoU of what it becomes."""
    page.wait_for_function("() => document.querySelector('.co-picture canvas')?.clientWidth > 50")
    page.get_by_test_id("bottombar-auto-annotation-toggle").check(force=True)
    page.locator(".lsf-tool_smart:visible").first.hover()
    smart: Locator = page.locator(".lsf-toolbar__smart").first
    smart.locator("> *").nth(1).click()  # the point is the first of the two, the box the second
    page.locator(".co-palette").first.locator(".lsf-label", has_text=label).click()
    place = page.locator(".konvajs-content").first.bounding_box()
    assert place is not None
    rows, columns = np.nonzero(part)
    scale = place["width"] / part.shape[1]
    left, right = (place["x"] + scale * float(x) for x in (columns.min(), columns.max() + 1))
    top, bottom = (place["y"] + scale * float(y) for y in (rows.min(), rows.max() + 1))
    with page.expect_response(lambda one: "interactive" in one.url) as answered:
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move(right, bottom, steps=8)
        page.mouse.up()
    page.wait_for_function(f"() => {STORE}.suggestions.size > 0")
    if screenshots is not None:
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        _take(page, screenshots / "tutorial-box.png")
    results = json.dumps(answered.value.json()["data"]["result"]).encode()
    regions = parse_regions(results, project.schema)
    assert {one.label for one in regions} == {label}
    outlined = [one for one in regions if one.image_index == 0]
    page.get_by_test_id("bottombar-accept-suggestions-button").click()
    page.wait_for_function(f"() => {STORE}.suggestions.size === 0")
    (mask,) = (one.mask for one in outlined)
    return float((mask & part).sum() / (mask | part).sum())


def _learned(said: dict[str, Any]) -> str | None:
    """The version that `calico status` reports, once it says what the page quotes."""
    (project,) = said["projects"]
    if "Annotators see predictions of the new version" in project["explanation"]["seen"]:
        return str(project["version"])
    run = project["run"]
    assert run is None or run["state"] == "running", project
    return None


def _check_yolo(folder: Path) -> None:
    """Reads the label files: a line is a class and the corners of an outline, from 0 to 1."""
    names = (folder / "data.yaml").read_text()
    assert all(label in names for label in LABELS)
    lists = [(folder / name).read_text().split() for name in ("train.txt", "val.txt")]
    assert sum(map(len, lists)) == 2 * CORRECTED
    assert all((folder / path).is_file() for found in lists for path in found)
    files = sorted((folder / "labels").rglob("*.txt"))
    assert len(files) == 2 * CORRECTED
    for file in files:
        lines = [line.split() for line in file.read_text().splitlines()]
        assert sorted(line[0] for line in lines) == ["0", "1", "2"]
        for _, *corners in lines:
            assert len(corners) >= 6
            assert len(corners) % 2 == 0
            assert all(0 <= float(corner) <= 1 for corner in corners)


def _check_coco(folder: Path, truth: dict[str, tuple[LabeledGroup, int]]) -> None:
    """Reads the masks with COCO's own reader and compares them with the truth, to the pixel."""
    coco = COCO(str(folder / "annotations.json"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == LABELS
    assert len(coco.imgs) == 2 * CORRECTED
    assert len(coco.anns) == 2 * CORRECTED * len(LABELS)
    names = {number: one["name"] for number, one in coco.cats.items()}
    for found in coco.anns.values():
        file = str(coco.imgs[found["image_id"]]["file_name"])
        assert (folder / "images" / file).is_file()
        (name,) = (one for one in truth if Path(one).stem in file)
        group, place = truth[name]
        (part,) = (
            one
            for one in group.parts
            if one.image_index == place and one.label == names[found["category_id"]]
        )
        assert np.array_equal(coco.annToMask(found), part.mask)


def _take(page: Page, path: Path) -> None:
    """Takes a picture of the window, of a size that a repository can hold."""
    page.screenshot(path=path)
    with Image.open(path) as taken:
        _keep(taken.convert("RGB"), path)


def _take_sheet(sheet: Path, path: Path) -> None:
    """Keeps the top of a contact sheet."""
    with Image.open(sheet) as taken:
        _keep(taken.convert("RGB").crop((0, 0, 1030, 560)), path)


def _keep(image: Image.Image, path: Path) -> None:
    for width in (1000, 860, 720, 600):
        small = image.resize(
            (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
        )
        few = small.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        if path.stat().st_size < MAX_BYTES:
            return
    raise AssertionError(f"{path} has {path.stat().st_size} bytes")
