"""A person clicks in the real page while a source answers beside the model; captions are edited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.connect import Ends, connect_project
from backend.cli.demo_project import IMAGES, draw_groups, preannotate
from backend.cli.label_studio_process import Account, new_account
from backend.label_studio.annotation import parse_drawing
from backend.label_studio.group_config import open_config
from backend.label_studio.label_config import parse_label_config
from calico_model.evaluation.matching import iou_matrix
from calico_model.inference.prompt import Click, MaskPrompt
from tests.e2e.annotator import PATIENCE_S, sign_in
from tests.e2e.conftest import VIEWPORT
from tests.e2e.editor import STORE, open_task
from tests.e2e.stack import started
from tests.e2e.studio_api import delete_project, export, update_project
from tests.e2e.test_click import accept_all, click_first_image, point_with_label, regions_in
from tests.unit.sources import test_sam
from tests.unit.sources.small_models import opened

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_CAPTION = """      <View className="ask">
        <TextArea name="caption_{{idx}}" toName="image_{{idx}}" editable="true" rows="3"
                  placeholder="caption of the group"/>
      </View>
"""
_WRITTEN = f"""() => Array.from({STORE}.names.values())
  .filter(tag => tag.name === 'caption_0').flatMap(tag => tag.regions.map(one => one._value))"""
_SUBMIT = "button[aria-label='Submit current annotation']"


@pytest.fixture(scope="module")
def account() -> Account:
    return new_account()


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    """A small random SAM of the real class in the hub's layout."""
    saved = scratch / "hub" / "sam"
    test_sam.save(saved, is_hq=False)
    return saved


@pytest.fixture(scope="module")
def sourced(scratch: Path, account: Account, folder: Path) -> Iterator[Ends]:
    """A Label Studio, and a backend with that SAM beside the model."""
    settings = {"CALICO_SOURCES": f"small={folder}", "CALICO_SOURCE_BUDGET_S": "60"}
    with started(scratch / "sources", account, settings) as ends:
        yield ends


@pytest.fixture(scope="module")
def images(scratch: Path, sourced: Ends) -> list[str]:
    """Addresses of one drawn group that Label Studio serves."""
    return draw_groups(scratch / "sources" / "files", 1, lambda done: None)[0]


@pytest.fixture
def page(browser: Browser, sourced: Ends, account: Account) -> Iterator[Page]:
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    sign_in(page, sourced.client.url, account.user, account.password)
    yield page
    context.close()


def create(ends: Ends, scratch: Path, config: str, images: list[str]) -> tuple[int, int]:
    """Creates a connected project with one task; returns the ids of both."""
    project = ends.client.create_project("sources", config)
    ends.client.add_local_storage(
        project.id, str(scratch / "sources" / "files" / IMAGES), title="images"
    )
    (task,) = ends.client.import_tasks(project.id, [{"data": {"images": images}}])
    connect_project(ends, project.id)
    return project.id, task


def submitted(page: Page, ends: Ends, project: int) -> list[dict[str, object]]:
    """Presses Submit; returns what Label Studio then has."""
    with page.expect_response(lambda answer: "/annotations" in answer.url and answer.ok):
        page.click(_SUBMIT)
    (task,) = export(ends.client, project)
    (annotation,) = cast("list[dict[str, list[dict[str, object]]]]", task["annotations"])
    return annotation["result"]


def test_a_click_is_answered_by_the_source_and_its_mask_is_saved(
    page: Page, sourced: Ends, scratch: Path, folder: Path, images: list[str]
) -> None:
    project, task = create(sourced, scratch, open_config(), images)
    # The canvas is empty, so that the mask comes from the click.
    update_project(sourced.client, project, show_collab_predictions=False)
    schema = parse_label_config(open_config())
    shown = np.asarray(
        Image.open(scratch / "sources" / "files" / images[0].partition("?d=")[2]).convert("RGB")
    )
    height, width = shown.shape[:2]
    row, column = height // 2, width // 2
    source = opened(folder)
    prompt = MaskPrompt((Click(column + 0.5, row + 0.5),))
    theirs = [one.mask for one in source.segment_prompt(source.encode(shown), prompt)]

    open_task(page, sourced.client.url, project, task, regions=0)
    page.locator(".konvajs-content").first.wait_for()
    point_with_label(page)
    answer = click_first_image(page, row, column, (height, width))

    suggested = regions_in(answer["result"], schema)
    (clicked,) = [one for one in suggested.values() if one.image_index == 0]
    assert iou_matrix([clicked.mask], theirs).max() > 0.9, "it is not the source's mask"
    accept_all(page, len(suggested))
    kept = regions_in(submitted(page, sourced, project), schema)
    (saved,) = [one for one in kept.values() if one.image_index == 0]
    assert saved.mask.tobytes() == clicked.mask.tobytes()
    assert sourced.credentials is not None
    status = httpx.get(
        f"{sourced.backend_url}/status", auth=sourced.credentials, timeout=60, trust_env=False
    ).json()
    (small,) = status["sources"]
    assert (small["name"], small["state"]) == ("small", "ready")
    assert small["asked"]["answered"] >= 1
    delete_project(sourced.client, project)


def test_a_caption_is_there_can_be_edited_and_is_read_back(
    page: Page, sourced: Ends, scratch: Path, account: Account, images: list[str], tmp_path: Path
) -> None:
    place = '      <View className="co-picture">\n'
    config = open_config().replace(place, _CAPTION + place)
    assert config.count("caption_{{idx}}") == 1
    project, task = create(sourced, scratch, config, images)
    preannotate(sourced, project, lambda done: None)
    schema = parse_label_config(config)
    (prediction,) = sourced.client.predictions(task, schema)
    assert prediction.regions

    open_task(page, sourced.client.url, project, task, regions=len(prediction.regions))
    (written,) = page.evaluate(_WRITTEN)
    assert written.startswith(("Both images", "Only", "All", "The images", "Image"))
    shown = page.locator(".ask:visible", has_text=written[:30]).first
    shown.wait_for()
    added = " They stand on a table."
    page.evaluate(
        f"""(text) => Array.from({STORE}.names.values())
          .find(tag => tag.name === 'caption_0').regions[0].setValue(text)""",
        written + added,
    )
    results = submitted(page, sourced, project)

    assert parse_drawing(json.dumps(results).encode(), schema).caption == written + added
    out = tmp_path / "captions.json"
    words = ["caption", "--project", str(project), "--out", str(out)]
    words += ["--url", sourced.client.url, "--api-key", account.api_key]
    runner = CliRunner(env={"CALICO_DATA_DIR": str(tmp_path)})
    read = runner.invoke(command_tree(words), words)
    assert read.exit_code == 0, read.output
    (entry,) = json.loads(out.read_text("utf-8"))
    assert entry["is_edited"]
    assert entry["caption"] == written + added
    assert entry["details"], "no phrase of the caption is linked to a mask"
    assert all(detail["ids"] for detail in entry["details"])
    delete_project(sourced.client, project)
