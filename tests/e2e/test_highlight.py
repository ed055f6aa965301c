"""A person highlights a word in the text above the images, and gets its masks under it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from playwright.sync_api import Page

from backend.cli.connect import Ends, connect_project
from backend.cli.demo import Demo
from backend.label_studio.group_config import text_config
from backend.label_studio.label_config import parse_label_config
from calico_model.types import RegionKind
from tests.e2e.editor import STORE
from tests.e2e.studio_api import delete_project, export, update_project

pytestmark = pytest.mark.e2e

_WAIT_MS = 120_000
_SUGGESTED = f"""() => Array.from({STORE}.suggestions.values())
  .map(region => [region.object.name, region.results.map(r => r.mainValue).flat(),
                  region.parentID.replace(/#.*/, '')])"""
_PLACE_OF_WORD = """(word) => {
  const text = document.querySelector('[class*="richtext"]');
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const at = node.textContent.indexOf(word);
    if (at < 0) continue;
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + word.length);
    const box = range.getBoundingClientRect();
    return [box.left, box.right, (box.top + box.bottom) / 2];
  }
}"""


@dataclass(frozen=True)
class HighlightTask:
    """A task with a text beside its images that names a part of them."""

    project_id: int
    task_id: int
    label: str


@pytest.fixture
def highlighted(demo: Demo, ends: Ends) -> Iterator[HighlightTask]:
    schema = parse_label_config(ends.client.project(demo.project_id).label_config)
    images, label = next(
        (task["data"], str(region.label))
        for task in ends.client.raw_tasks(demo.project_id)
        for prediction in ends.client.predictions(int(str(task["id"])), schema)
        for region in prediction.regions
        if region.kind is RegionKind.COMMON_PART and region.label
    )
    project = ends.client.create_project("highlight", text_config())
    # The images of the demo are served to every task of this Label Studio.
    data = cast("dict[str, object]", images) | {"text": f"Each of them has a {label}, I think."}
    (task_id,) = ends.client.import_tasks(project.id, [{"data": data}])
    ends.client.add_local_storage(project.id, str(demo.files / "images"), title="images")
    connect_project(ends, project.id)
    # The canvas is empty, so that all masks come from the highlight.
    update_project(ends.client, project.id, show_collab_predictions=False)
    yield HighlightTask(project.id, task_id, label)
    delete_project(ends.client, project.id)


def open_with_text(page: Page, ends: Ends, highlighted: HighlightTask) -> None:
    """Opens the task with Auto-Annotation on and waits for text and images."""
    page.evaluate("() => localStorage.setItem('autoAnnotation', 'true')")
    page.goto(
        f"{ends.client.url}/projects/{highlighted.project_id}/data?task={highlighted.task_id}"
    )
    page.get_by_text("Each of them has").last.wait_for(timeout=_WAIT_MS)
    page.locator(".konvajs-content").first.wait_for(timeout=_WAIT_MS)


def highlight(page: Page, word: str) -> dict[str, Any]:
    """Picks the label of phrases and drags over a word; returns the backend's answer."""
    page.locator(".lsf-label", has_text="phrase").first.click()
    left, right, middle = page.evaluate(_PLACE_OF_WORD, word)
    with page.expect_response(lambda one: "interactive" in one.url, timeout=_WAIT_MS) as answered:
        page.mouse.move(left + 1, middle)
        page.mouse.down()
        page.mouse.move(right - 1, middle, steps=5)
        page.mouse.up()
    (asked,) = answered.value.request.post_data_json["context"]["result"]
    assert (asked["from_name"], asked["to_name"], asked["type"]) == ("phrase", "text", "labels")
    assert asked["value"]["text"] == word
    answer: dict[str, Any] = answered.value.json()["data"]
    return answer | {"asked": asked["id"]}


def test_a_highlighted_word_is_outlined_on_the_images_and_linked(
    page: Page, ends: Ends, highlighted: HighlightTask
) -> None:
    open_with_text(page, ends, highlighted)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    answer = highlight(page, highlighted.label)
    page.wait_for_function(f"() => ({_SUGGESTED})().length > 0", timeout=60_000)
    suggested = page.evaluate(_SUGGESTED)

    assert {image for image, _, _ in suggested} <= {f"image_{k}" for k in range(8)}
    assert all(highlighted.label in texts for _, texts, _ in suggested)
    assert {parent for _, _, parent in suggested} == {answer["asked"]}
    page.get_by_text(f"{highlighted.label}: on image").first.wait_for()

    page.get_by_test_id("bottombar-accept-suggestions-button").click()
    page.wait_for_function(f"() => {STORE}.suggestions.size === 0")
    with page.expect_response(lambda one: "/annotations" in one.url and one.ok):
        page.click("button[aria-label='Submit current annotation']")
    (task,) = export(ends.client, highlighted.project_id)
    (annotation,) = cast("list[dict[str, list[dict[str, Any]]]]", task["annotations"])
    results = annotation["result"]
    (span,) = [one for one in results if one["to_name"] == "text"]
    brushes = [one for one in results if one["type"] == "brush"]
    assert span["value"]["text"] == highlighted.label
    assert span["value"]["labels"] == ["phrase"]
    assert len(brushes) == len(suggested)
    assert {one["parentID"] for one in brushes} == {span["id"]}
    assert errors == []
