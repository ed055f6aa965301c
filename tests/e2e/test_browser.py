"""A person opens a pre-annotated task in the real page, changes one region and submits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from backend.cli.connect import Ends
from backend.cli.demo import Demo
from backend.label_schema import LabelSchema
from backend.label_studio.brush import ALPHA_THRESHOLD
from backend.label_studio.event import read_annotation
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.predictions import task_states
from backend.storage.journal import StoredEvent
from backend.storage.store import open_store
from backend.types import EventAction, StoredPrediction
from calico_model.types import RegionKind
from tests.e2e.editor import STORE, drawn_regions, open_task, select_region

pytestmark = pytest.mark.e2e


@pytest.fixture
def schema(demo: Demo, ends: Ends) -> LabelSchema:
    return parse_label_config(ends.client.project(demo.project_id).label_config)


@pytest.fixture
def task_id(demo: Demo, ends: Ends) -> int:
    """A task that nobody has annotated, with the most images."""
    tasks = [task for task in ends.client.raw_tasks(demo.project_id) if not task["is_labeled"]]
    return int(str(max(tasks, key=lambda task: len(task["data"]["images"]))["id"]))  # type: ignore[index]


def predicted(ends: Ends, task_id: int, schema: LabelSchema) -> StoredPrediction:
    (prediction,) = ends.client.predictions(task_id, schema)
    assert prediction.regions, "the model said nothing about this group"
    return prediction


def journalled(demo: Demo, action: EventAction, task_id: int) -> list[StoredEvent]:
    store = open_store(f"sqlite:///{demo.folder / 'backend' / 'calico.sqlite3'}")
    try:
        events = store.events(demo.project_id)
    finally:
        store.close()
    return [one for one in events if one.event.action is action and one.event.task_id == task_id]


def test_the_data_manager_shows_the_score_of_every_task(demo: Demo, ends: Ends) -> None:
    scores = [state.score for state in task_states(ends.client, demo.project_id)]
    assert len(scores) == demo.groups
    assert all(score is not None and 0 < score <= 1 for score in scores)


def test_the_editor_shows_the_masks_we_sent(
    page: Page, demo: Demo, ends: Ends, schema: LabelSchema, task_id: int, screenshots: Path | None
) -> None:
    prediction = predicted(ends, task_id, schema)
    errors: list[object] = []
    page.on("pageerror", lambda error: errors.append(error))

    open_task(page, ends.client.url, demo.project_id, task_id, regions=len(prediction.regions))

    drawn = {region.id: region for region in drawn_regions(page)}
    assert set(drawn) == {region.id for region in prediction.regions}
    for region in prediction.regions:
        shown = drawn[region.id]
        assert shown.image == f"image_{region.image_index}"
        assert shown.kind == region.kind
        assert shown.alpha.shape == region.size_hw
        is_object = region.kind is RegionKind.COMMON_OBJECT
        assert ((shown.alpha >= ALPHA_THRESHOLD) == region.mask).all()
        assert set(np.unique(shown.alpha)) == {0, 255} | ({ALPHA_THRESHOLD} if is_object else set())
    assert errors == []
    kinds = [region.kind for region in drawn.values()]
    objects = kinds.count(RegionKind.COMMON_OBJECT)
    assert set(kinds[:objects]) <= {RegionKind.COMMON_OBJECT}, "their parts lie on top of them"
    colours = {(region.label, drawn[region.id].colour) for region in prediction.regions}
    assert len({label for label, _ in colours}) == len({colour for _, colour in colours})
    assert len({label for label, _ in colours}) == len(colours), "one colour per part"
    arrows = f"{STORE}.relationStore.relations.length"
    assert page.evaluate(arrows) == 0
    if screenshots is not None:
        page.screenshot(path=screenshots / "preannotated.png")


def test_a_correction_is_journalled_as_it_was_submitted(
    page: Page, demo: Demo, ends: Ends, schema: LabelSchema, task_id: int, screenshots: Path | None
) -> None:
    prediction = predicted(ends, task_id, schema)
    open_task(page, ends.client.url, demo.project_id, task_id, regions=len(prediction.regions))
    changed = prediction.regions[0]
    wanted = next(kind for kind in RegionKind if kind is not changed.kind)

    select_region(page, changed.id)
    page.locator(".lsf-label", has_text=wanted.value).nth(changed.image_index).click()
    with page.expect_response(lambda answer: "/annotations" in answer.url and answer.ok):
        page.click("button[aria-label='Submit current annotation']")

    (stored,) = journalled(demo, EventAction.ANNOTATION_CREATED, task_id)
    annotation = read_annotation(stored.event)
    assert annotation.parent_prediction_id == prediction.id
    kept = {region.id: region for region in annotation.regions}
    assert set(kept) == {region.id for region in prediction.regions}
    assert kept[changed.id].kind is wanted
    for region in prediction.regions:
        assert kept[region.id].mask.tobytes() == region.mask.tobytes()
        assert kept[region.id].label == region.label
        assert kept[region.id].kind is (wanted if region.id == changed.id else region.kind)
    if screenshots is not None:
        open_task(page, ends.client.url, demo.project_id, task_id, regions=len(kept))
        select_region(page, changed.id)
        page.screenshot(path=screenshots / "corrected.png")
