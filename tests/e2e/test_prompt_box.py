"""A person types into the prompt box of the real page and gets regions and an answer."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from backend.cli.connect import Ends
from backend.cli.demo import Demo
from backend.label_studio.label_config import parse_label_config
from backend.types import StoredPrediction
from calico_model.types import RegionKind
from tests.e2e.editor import STORE, open_task

pytestmark = pytest.mark.e2e

_SUGGESTED = f"""() => Array.from({STORE}.suggestions.values())
  .filter(region => !region.classification)
  .map(region => [region.object.name, region.results.map(r => r.mainValue).flat()])"""


@pytest.fixture
def asked(demo: Demo, ends: Ends) -> tuple[StoredPrediction, str]:
    """A pre-annotated task, and a part that the model sees on more than one of its images."""
    schema = parse_label_config(ends.client.project(demo.project_id).label_config)
    for task in ends.client.raw_tasks(demo.project_id):
        (prediction,) = ends.client.predictions(int(str(task["id"])), schema)
        for region in prediction.regions:
            if region.kind is RegionKind.COMMON_PART and region.label is not None:
                return prediction, region.label
    raise AssertionError("no demo group has a common part")


def test_typing_a_name_suggests_it_and_says_where_it_is(
    page: Page, demo: Demo, ends: Ends, asked: tuple[StoredPrediction, str]
) -> None:
    prediction, label = asked
    shown = len(prediction.regions)
    open_task(page, ends.client.url, demo.project_id, prediction.task_id, regions=shown)
    box = page.locator(".ask input").first

    box.fill(f"segment the {label}")
    with page.expect_response(lambda answer: "interactive" in answer.url, timeout=120_000):
        box.press("Enter")

    page.wait_for_function(f"() => ({_SUGGESTED})().length > 0", timeout=60_000)
    suggested = page.evaluate(_SUGGESTED)
    assert {image for image, _ in suggested} <= {f"image_{k}" for k in range(8)}
    assert all(label in texts for _, texts in suggested)
    page.locator(".ask", has_text=f"{label}: on image").first.wait_for()


def test_words_without_meaning_are_answered_too(
    page: Page, demo: Demo, ends: Ends, asked: tuple[StoredPrediction, str]
) -> None:
    prediction, label = asked
    shown = len(prediction.regions)
    open_task(page, ends.client.url, demo.project_id, prediction.task_id, regions=shown)
    box = page.locator(".ask input").first

    for typed, answer in (
        ("hood", 'I do not know "hood" yet: outline it once'),
        (f"steering {label}", f'I know "{label}", not "steering {label}": outline it once'),
        ("sdfgh", 'I do not understand "sdfgh"; write a part\'s name, such as '),
    ):
        box.fill(typed)
        box.press("Enter")
        page.locator(".ask", has_text=answer).first.wait_for(timeout=120_000)
        # Not below the edge of the box, where one would have to scroll for it.
        said = page.locator(".ask p", has_text=answer).first
        expect(said).to_be_in_viewport(ratio=1)
        assert page.evaluate(_SUGGESTED) == []
