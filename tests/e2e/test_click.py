"""A person clicks a part once and gets it on every image of the group; accepts, and submits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from playwright.sync_api import Page, Response

from backend.cli.connect import Ends, connect_project
from backend.cli.demo import Demo
from backend.cli.demo_project import create_project, preannotate
from backend.label_schema import LabelSchema
from backend.label_studio.annotation import parse_drawing, parse_regions
from backend.label_studio.label_config import parse_label_config
from backend.types import Region, StoredPrediction
from calico_model.evaluation.annotator import next_click
from calico_model.types import RegionKind
from tests.e2e.editor import STORE, notes, open_task, select_region
from tests.e2e.studio_api import delete_project, export

pytestmark = pytest.mark.e2e

_Answer = dict[str, Any]
_Result = dict[str, object]
_LABEL = RegionKind.COMMON_PART
_WAIT_MS = 120_000
_TALL = {"width": 1480, "height": 1340}  # shows two rows of images
_SUGGESTED = f"""() => Array.from({STORE}.suggestions.values())
  .map(region => [region.cleanId, region.object.name, region.labels])"""


@dataclass(frozen=True)
class Clickable:
    """A pre-annotated task of four images, and one of its parts.

    Attributes:
        project_id: of a project like the demo's; other tests annotate that one.
        schema: of its labeling config.
        prediction: what the task was pre-annotated with.
        part: one predicted common part, a region on each image.
    """

    project_id: int
    schema: LabelSchema
    prediction: StoredPrediction
    part: tuple[Region, ...]


@pytest.fixture
def clickable(demo: Demo, ends: Ends) -> Iterator[Clickable]:
    tasks = [task["data"]["images"] for task in ends.client.raw_tasks(demo.project_id)]  # type: ignore[index]
    images = max(tasks, key=len)
    project_id = create_project(ends.client, demo.files, [images])
    connect_project(ends, project_id)
    preannotate(ends, project_id, lambda done: None)
    schema = parse_label_config(ends.client.project(project_id).label_config)
    (task,) = ends.client.raw_tasks(project_id)
    (prediction,) = ends.client.predictions(int(str(task["id"])), schema)
    yield Clickable(project_id, schema, prediction, surest_part(prediction, len(images)))
    delete_project(ends.client, project_id)


def surest_part(prediction: StoredPrediction, images: int) -> tuple[Region, ...]:
    """The common part that is on every image, with the best least score."""
    parts: dict[str, dict[int, Region]] = {}
    for region in prediction.regions:
        if region.kind is _LABEL and region.label is not None:
            parts.setdefault(region.label, {})[region.image_index] = region
    everywhere = [tuple(found.values()) for found in parts.values() if len(found) == images]
    assert everywhere, "no common part is on every image"
    return max(everywhere, key=lambda part: min(region.score or 0.0 for region in part))


def place_in(region: Region) -> tuple[int, int]:
    """Row and column of the pixel deepest inside a region."""
    click = next_click(np.zeros_like(region.mask), region.mask)
    assert click is not None
    return click.row, click.column


def open_clickable(page: Page, ends: Ends, clickable: Clickable) -> None:
    """Opens the task with everything that was predicted."""
    prediction = clickable.prediction
    shown = len(prediction.regions)
    open_task(page, ends.client.url, clickable.project_id, prediction.task_id, regions=shown)


def point_with_label(page: Page) -> None:
    """Switches Auto-Annotation on; picks the first image's smart point and label."""
    page.get_by_test_id("bottombar-auto-annotation-toggle").check(force=True)
    page.locator(".lsf-tool_smart:visible").first.click()
    page.locator(".lsf-label", has_text=_LABEL.value).first.click()


def delete_everything(page: Page, clickable: Clickable) -> None:
    """Deletes all regions and waits until Label Studio knows: it keeps drafts every 5 seconds.

    The editor takes what it sees at the first change for what it was given, so that a lone
    deletion is no change to it; hence one region goes first.
    """
    page.on("dialog", lambda dialog: dialog.accept())
    regions = clickable.prediction.regions
    with page.expect_response(is_empty_draft):
        select_region(page, regions[0].id)
        page.keyboard.press("Backspace")
        count = f"{STORE}.regionStore.regions.length"
        page.wait_for_function(f"(left) => {count} === left", arg=len(regions) - 1)
        page.keyboard.press("Control+Backspace")
        page.wait_for_function(f"() => {count} === 0")


def is_empty_draft(answer: Response) -> bool:
    return "/drafts" in answer.url and answer.ok and answer.request.post_data_json["result"] == []


def drafted(page: Page) -> AbstractContextManager[object]:
    """Waits for the draft that what is done inside leads to."""
    return page.expect_response(lambda answer: "/drafts" in answer.url and answer.ok)


def click_first_image(page: Page, row: int, column: int, size_hw: tuple[int, int]) -> _Answer:
    """Clicks the middle of a pixel of the first image; returns the backend's answer."""
    box = page.locator(".konvajs-content").first.bounding_box()
    assert box is not None
    with page.expect_response(lambda one: "interactive" in one.url, timeout=_WAIT_MS) as answered:
        page.mouse.click(
            box["x"] + (column + 0.5) / size_hw[1] * box["width"],
            box["y"] + (row + 0.5) / size_hw[0] * box["height"],
        )
    asked = answered.value.request.post_data_json["context"]["result"]
    assert [one["value"]["labels"] for one in asked] == [[_LABEL.value]] * 2, "point and label"
    answer: _Answer = answered.value.json()["data"]
    page.wait_for_function(f"() => {STORE}.suggestions.size > 0")
    return answer


def accept_all(page: Page, count: int) -> None:
    """Presses the check mark beside the number of suggestions."""
    page.get_by_text(f"{count} suggestions", exact=True).wait_for()
    page.get_by_test_id("bottombar-accept-suggestions-button").click()
    page.wait_for_function(f"() => {STORE}.suggestions.size === 0")


def submit(page: Page, ends: Ends, clickable: Clickable) -> list[_Result]:
    """Presses Submit; returns what Label Studio then has."""
    with page.expect_response(lambda answer: "/annotations" in answer.url and answer.ok):
        page.click("button[aria-label='Submit current annotation']")
    (task,) = export(ends.client, clickable.project_id)
    (annotation,) = cast("list[dict[str, list[_Result]]]", task["annotations"])
    return annotation["result"]


def regions_in(results: object, schema: LabelSchema) -> dict[str, Region]:
    return {region.id: region for region in parse_regions(json.dumps(results).encode(), schema)}


def test_one_click_suggests_the_part_on_every_image_of_the_group(
    page: Page, ends: Ends, clickable: Clickable, screenshots: Path | None
) -> None:
    predicted = {region.image_index: region for region in clickable.part}
    open_clickable(page, ends, clickable)
    delete_everything(page, clickable)
    point_with_label(page)

    row, column = place_in(predicted[0])
    answer = click_first_image(page, row, column, predicted[0].size_hw)

    suggested = regions_in(answer["result"], clickable.schema)
    there = {region.image_index for region in suggested.values()}
    absent = set(answer.get("absent", ()))
    assert there | absent == set(predicted)
    assert there.isdisjoint(absent)
    assert len(there) == len(suggested) >= 2
    assert sorted(page.evaluate(_SUGGESTED)) == sorted(
        [name, f"image_{region.image_index}", [_LABEL.value]] for name, region in suggested.items()
    )
    for region in suggested.values():
        assert (region.mask & predicted[region.image_index].mask).any(), "it is another part"
    (clicked,) = (region for region in suggested.values() if region.image_index == 0)
    assert clicked.mask[row, column]
    label = predicted[0].label
    assert notes(page) == {f"note_{image}": [f"{label}: not found here"] for image in absent}
    if screenshots is not None:
        page.set_viewport_size(_TALL)
        page.mouse.move(0, 0)
        page.screenshot(path=screenshots / "click.png")

    accept_all(page, len(suggested))
    results = submit(page, ends, clickable)

    assert {one["type"] for one in results} == {"brush", "taxonomy", "labels", "textarea"}
    assert not [one for one in results if str(one["from_name"]).startswith("note_")]
    kept = regions_in(results, clickable.schema)
    assert kept.keys() == suggested.keys()
    for name, region in kept.items():
        assert region.kind is _LABEL
        assert region.label == predicted[0].label, "nobody else has named it"
        assert region.image_index == suggested[name].image_index
        assert region.mask.tobytes() == suggested[name].mask.tobytes()


def test_a_click_on_a_predicted_region_changes_it_in_place(
    page: Page, ends: Ends, clickable: Clickable
) -> None:
    predicted = {region.id: region for region in clickable.prediction.regions}
    target = next(region for region in clickable.part if region.image_index == 0)
    row, column = place_in(target)
    errors: list[object] = []
    page.on("pageerror", lambda error: errors.append(error))
    open_clickable(page, ends, clickable)
    point_with_label(page)

    page.keyboard.down("Control")  # without, a click on a region selects it
    again = click_first_image(page, row, column, target.size_hw)
    page.keyboard.up("Control")
    accept_all(page, 1)
    results = submit(page, ends, clickable)

    refined = regions_in(again["result"], clickable.schema)[target.id]
    kept = regions_in(results, clickable.schema)
    assert kept.keys() == predicted.keys()
    assert kept[target.id].label == target.label
    assert kept[target.id].mask.tobytes() == refined.mask.tobytes()
    others = [one for id_, one in predicted.items() if id_ != target.id]
    assert all(kept[one.id].mask.tobytes() == one.mask.tobytes() for one in others)
    colours = {region.colour for region in kept.values() if region.label == target.label}
    assert len(colours) == 1, "one colour per part, also after a click"
    assert not [one for one in results if one["type"] == "relation"]
    drawing = parse_drawing(json.dumps(results).encode(), clickable.schema)
    assert drawing.same_part, "which regions are the same part is known without arrows"
    assert errors == []
