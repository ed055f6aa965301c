"""What stands around the images of a group: palette, prompt box, keys, all in view.

The projects are not connected to a backend, so that opening a task predicts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page

from backend.cli.connect import Ends
from backend.cli.demo import Demo
from backend.cli.demo_project import IMAGES
from backend.label_schema import LabelValue
from backend.label_studio.client import JsonObject
from backend.label_studio.group_config import labels_config, open_config
from backend.label_studio.group_project import add_group_view, create_group_project
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng
from tests.e2e.editor import STORE
from tests.e2e.studio_api import delete_project

pytestmark = pytest.mark.e2e

SIZES = (2, 3, 4, 6, 8)
WINDOWS = ((1280, 800), (1600, 1000), (1920, 1080))
PARTS = (
    *(
        "frame",
        "front wheel",
        "rear wheel",
        "saddle",
        "handlebar",
        "pedal",
        "chain",
        "fork",
        "seat",
    ),
    *("leg", "backrest", "armrest", "tabletop", "drawer", "handle", "lid", "spout", "body"),
)
MAX_BYTES = 150_000

# The editor draws a page more than once while it opens a task: the images stand when two looks find
# them in the same places.
_STANDING = """(count) => {
  const pictures = [...document.querySelectorAll('.co-picture')];
  const canvases = pictures.map(picture => picture.querySelector('canvas'));
  const areShown = pictures.length === count && canvases.every(canvas => canvas?.clientWidth > 50);
  const boxes = areShown
    ? canvases.map(canvas => canvas.getBoundingClientRect())
        .map(({x, y, width, height}) => ({x, y, width, height}))
    : null;
  const before = window.calicoBoxes;
  window.calicoBoxes = JSON.stringify(boxes);
  return window.calicoBoxes === before ? boxes : null;
}"""
_CHOSEN = f"""() => [...{STORE}.names.values()].filter(tag => tag.type === 'labels')
  .map(tag => tag.selectedValues())"""
_REGIONS = f"() => {STORE}.regionStore.regions.map(region => [region.object.name, region.labels])"
_SEEN = """() => {
  const palettes = [...document.querySelectorAll('.co-palette')];
  const box = palettes[0].getBoundingClientRect();
  const top = document.elementFromPoint(box.left + 5, box.top + box.height / 2);
  return palettes.findIndex(palette => palette.contains(top));
}"""


@dataclass(frozen=True)
class Desk:
    """A project with one task for each size of a group."""

    url: str
    project_id: int
    task_of: dict[int, int]

    def open(self, page: Page, size: int) -> list[FloatRect]:
        """Opens the task with `size` images; returns where its images are on the page."""
        page.goto(f"{self.url}/projects/{self.project_id}/data?task={self.task_of[size]}")
        boxes = page.wait_for_function(_STANDING, arg=size, timeout=60_000, polling=300)
        return list(boxes.json_value())


def box_of(element: Locator) -> FloatRect:
    box = element.bounding_box()
    assert box is not None
    return box


@pytest.fixture(scope="module")
def groups(demo: Demo, ends: Ends) -> list[list[str]]:
    """Drawn groups in the proportions of photographs; addresses inside Label Studio."""
    addresses = []
    for place, size in enumerate(SIZES):
        rng = group_rng(Stream.EVALUATION, 5, place)
        scenes = draw_group(rng, split=SceneSplit.SEEN, group_size=size, size_px=512)
        names = [f"{IMAGES}/desk-{size}-{number}.png" for number in range(size)]
        for name, scene in zip(names, scenes, strict=True):
            Image.fromarray(np.ascontiguousarray(scene.image[64:448])).save(demo.files / name)
        addresses.append([f"/data/local-files/?d={name}" for name in names])
    return addresses


@pytest.fixture(scope="module")
def desks(demo: Demo, ends: Ends, groups: list[list[str]]) -> Iterator[dict[str, Desk]]:
    desks = {}
    configs = {
        "labels": labels_config([LabelValue(part) for part in PARTS]),
        "open": open_config(),
    }
    for name, config in configs.items():
        is_open = name == "open"
        project = create_group_project(ends.client, f"desk {name}", config, is_open=is_open)
        add_group_view(ends.client, project.id)
        ends.client.add_local_storage(project.id, str(demo.files / IMAGES), title="desk")
        tasks: list[JsonObject] = [{"data": {"images": images}} for images in groups]
        ids = ends.client.import_tasks(project.id, tasks)
        desks[name] = Desk(ends.client.url, project.id, dict(zip(SIZES, ids, strict=True)))
    yield desks
    for desk in desks.values():
        delete_project(ends.client, desk.project_id)


@pytest.mark.parametrize("config", ["labels", "open"])
def test_pairs_and_triples_and_the_palette_are_in_view(
    page: Page, desks: dict[str, Desk], config: str
) -> None:
    page.set_viewport_size({"width": 1600, "height": 1000})
    for size in (2, 3):
        pictures = desks[config].open(page, size)
        palette = box_of(page.locator(".co-palette").first)
        box = box_of(page.locator(".ask").first)
        submit = box_of(page.locator("button[aria-label='Submit current annotation']"))
        for left, right in zip(pictures, pictures[1:], strict=False):
            assert left["x"] + left["width"] <= right["x"], "side by side"
            assert abs(left["y"] - right["y"]) < 2
        for place in (palette, box, *pictures):
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= 1600
            assert place["y"] >= 0
            assert place["y"] + place["height"] <= submit["y"], "above the bar at the bottom"
        assert min(picture["width"] for picture in pictures) > 280
        assert page.locator(".ask:visible").count() == 1


def test_one_palette_and_the_same_keys_for_all_images(page: Page, desks: dict[str, Desk]) -> None:
    page.set_viewport_size({"width": 1600, "height": 1000})
    pictures = desks["labels"].open(page, 3)
    assert page.evaluate(_SEEN) == 0

    page.keyboard.press("2")
    assert page.evaluate(_CHOSEN) == [["front wheel"]] * 3
    draw(page, pictures[1])
    assert page.evaluate(_REGIONS) == [["image_1", ["front wheel"]]]

    page.keyboard.press("Escape")
    page.mouse.move(pictures[2]["x"] + 80, pictures[2]["y"] + 80)
    page.wait_for_function(f"() => ({_SEEN})() === 2")
    page.mouse.move(1590, 500)
    assert page.evaluate(_SEEN) == 2, "it stays when the pointer leaves the images"

    page.locator(".lsf-outliner-item").first.click()
    page.wait_for_function(f"() => ({_SEEN})() === 1")
    page.locator(".co-palette").nth(1).locator(".lsf-label", has_text="saddle").click()
    assert page.evaluate(_REGIONS) == [["image_1", ["saddle"]]]
    page.keyboard.press("7")
    assert page.evaluate(_REGIONS) == [["image_1", ["chain"]]]


@pytest.mark.parametrize("config", ["labels", "open"])
def test_the_number_of_an_image_covers_no_note(
    page: Page, ends: Ends, desks: dict[str, Desk], config: str
) -> None:
    desk = desks[config]
    note = {"id": "n", "from_name": "note_0", "to_name": "image_0", "type": "textarea"}
    regions = json.dumps([note | {"value": {"text": ["Nothing is shown yet"]}}]).encode()
    ends.client.create_prediction(desk.task_of[2], regions, score=0.0, version="test")
    desk.open(page, 2)
    words = page.locator(".co-picture p", has_text="Nothing is shown yet")
    words.wait_for()
    number_ends = page.locator(".co-picture").first.evaluate(
        """(element) => {
          const style = getComputedStyle(element, '::before');
          const sides = ['left', 'width', 'paddingLeft', 'paddingRight'];
          const width = sides.reduce((sum, side) => sum + parseFloat(style[side]), 0);
          return element.getBoundingClientRect().left + width;
        }"""
    )
    assert box_of(words)["x"] > number_ends


def draw(page: Page, picture: FloatRect) -> None:
    """Draws a stroke with the brush."""
    page.mouse.move(picture["x"] + 100, picture["y"] + 80)
    page.mouse.down()
    page.mouse.move(picture["x"] + 160, picture["y"] + 110, steps=5)
    page.mouse.up()
    page.wait_for_function(f"() => ({_REGIONS})().length === 1")


def test_pictures_of_every_size_for_the_documentation(
    page: Page, desks: dict[str, Desk], screenshots: Path | None
) -> None:
    """Images of a group have one size and do not overlap; takes the pictures where wanted."""
    desk = desks["labels"]
    windows = WINDOWS if screenshots is not None else WINDOWS[:1]
    for width, height in windows:
        page.set_viewport_size({"width": width, "height": height})
        for size in SIZES if screenshots is not None else SIZES[-1:]:
            pictures = desk.open(page, size)
            widths = [picture["width"] for picture in pictures]
            assert max(widths) - min(widths) < 2
            assert len({(round(p["x"]), round(p["y"])) for p in pictures}) == size
            if screenshots is not None:
                take(page, screenshots / f"desk_{size}_{width}.jpg")
    if screenshots is not None:
        page.goto(f"{desk.url}/projects/{desk.project_id}/data")
        page.locator("img[alt=Data]").nth(len(SIZES) - 1).wait_for()
        page.wait_for_load_state("networkidle")
        take(page, screenshots / "desk_tasks.jpg")


def take(page: Page, path: Path) -> None:
    """Takes a picture of the window, of a size that a repository can hold."""
    for quality in (60, 45, 30):
        page.screenshot(path=path, type="jpeg", quality=quality)
        if path.stat().st_size < MAX_BYTES:
            return
    raise AssertionError(f"{path} has {path.stat().st_size} bytes")
