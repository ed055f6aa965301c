"""An annotator corrects five tasks in the real page; the next task opens with better masks.

With CALICO_SCREENSHOTS=docs/screenshots it also writes learning-before.png and learning-after.png,
of the next task that gained most, and ui.png. The figures come from the API and are printed as
JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from backend.cli.connect import Ends, connect_project
from backend.cli.demo_project import preannotate
from backend.cli.label_studio_process import (
    Account,
    new_account,
)
from backend.label_studio.client import LabelStudioClient
from backend.types import StoredPrediction
from tests.e2e.annotator import PATIENCE_S, correct, sign_in, wait
from tests.e2e.conftest import VIEWPORT
from tests.e2e.editor import drawn_regions, open_task
from tests.e2e.generated_photos import cart_groups
from tests.e2e.stack import USER, started
from tests.e2e.studio_api import update_project
from tests.e2e.unseen_project import UnseenProject, create_project, create_unseen_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TASKS, CORRECTED, COMPARED = 12, 5, 4
PHOTO_TASKS, PHOTOS_CORRECTED = 8, 6


@pytest.fixture(scope="module")
def account() -> Account:
    return new_account()


@pytest.fixture(scope="module")
def learning(scratch: Path, account: Account) -> Iterator[Ends]:
    """A Label Studio, and a backend with a trainer beside it."""
    settings = {
        "CALICO_TRAIN_EVERY": str(CORRECTED),
        "CALICO_TRAIN_AGE_S": "100000",
        "CALICO_REFRESH": "true",
    }
    with started(scratch / "loop", account, settings, "--trainer") as ends:
        yield ends


@pytest.fixture(scope="module")
def project(scratch: Path, learning: Ends) -> UnseenProject:
    made = create_unseen_project(learning.client, scratch / "loop" / "files", TASKS)
    connect_project(learning, made.id)
    preannotate(learning, made.id, lambda done: None)
    return made


@pytest.fixture(scope="module")
def photo_project(scratch: Path, learning: Ends) -> UnseenProject:
    files, groups = scratch / "loop" / "files", cart_groups(PHOTO_TASKS)
    made = create_project(learning.client, files, "Learning: photographs", groups)
    connect_project(learning, made.id)
    preannotate(learning, made.id, lambda done: None)
    return made


@pytest.fixture
def page(browser: Browser, learning: Ends, account: Account) -> Iterator[Page]:
    """A page of somebody who has signed in to this Label Studio."""
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    sign_in(page, learning.client.url, account.user, account.password)
    yield page
    context.close()


def newest(client: LabelStudioClient, project: UnseenProject, task_id: int) -> StoredPrediction:
    return max(client.predictions(task_id, project.schema), key=lambda one: one.id or 0)


def test_five_corrections_make_the_next_task_better(
    page: Page,
    browser: Browser,
    learning: Ends,
    project: UnseenProject,
    screenshots: Path | None,
) -> None:
    client, url = learning.client, learning.client.url
    tasks = list(project.truth)
    counted = tasks[:CORRECTED]
    coming = [task for task in tasks if task > counted[-1]][:COMPARED]
    before = {task: newest(client, project, task) for task in (*counted, *coming)}
    looked = {}
    for task in coming if screenshots is not None else coming[:1]:
        open_task(page, url, project.id, task, regions=len(before[task].regions))
        looked[task] = page.screenshot()

    for task in counted:
        correct(page, url, project, task, len(before[task].regions))
    auth = httpx.BasicAuth(*USER)
    http = httpx.Client(base_url=learning.backend_url, auth=auth, trust_env=False, timeout=30)
    first, *_ = wait(lambda: _published(http, before[coming[0]].version))

    # Nobody asked for it: the new version predicts what nobody has begun, and pushes it.
    after = {
        task: wait(lambda task=task: _of_version(newest(client, project, task), first))
        for task in coming
    }
    quality = {
        what: [round(project.quality(task, found[task].regions), 3) for task in coming]
        for what, found in (("before", before), ("after", after))
    }
    gains = np.subtract(quality["after"], quality["before"])
    best = coming[int(gains.argmax())]
    open_task(page, url, project.id, best, regions=len(after[best].regions))
    if screenshots is not None:
        (screenshots / "learning-before.png").write_bytes(looked[best])
        page.screenshot(path=screenshots / "learning-after.png")
    print(json.dumps({"version": first, "mean_iou": quality}))  # noqa: T201
    assert np.mean(quality["after"]) >= np.mean(quality["before"]) + 0.05

    # Its scores order the tasks: the least certain one comes next.
    waiting = wait(lambda: _pushed(client, project, first))
    assert client.project(project.id).model_version == first
    update_project(client, project.id, sampling="Uncertainty sampling")
    chosen = client.get(f"/api/projects/{project.id}/next")
    scores = {task: one.score for task, one in waiting.items()}
    assert isinstance(chosen, dict)
    assert scores[int(str(chosen["id"]))] == min(scores.values())

    _look_at_the_page(browser, learning, project, first, screenshots)
    setup = http.get("/status").json()["projects"][0]
    assert setup["version"] is None
    http.close()


def test_six_corrected_photographs_make_the_next_ones_open_with_right_masks(
    page: Page, learning: Ends, photo_project: UnseenProject, screenshots: Path | None
) -> None:
    client, url = learning.client, learning.client.url
    tasks = list(photo_project.truth)
    counted, coming = tasks[:PHOTOS_CORRECTED], tasks[PHOTOS_CORRECTED:]
    before = {task: newest(client, photo_project, task) for task in tasks}
    assert not any(one.regions for one in before.values())  # it knows nothing of photographs

    for task in counted:
        correct(page, url, photo_project, task, 0)
    http = httpx.Client(
        base_url=learning.backend_url, auth=httpx.BasicAuth(*USER), trust_env=False, timeout=30
    )
    version = wait(lambda: _serving(http, photo_project.id))
    after = {
        task: wait(lambda task=task: _shown(newest(client, photo_project, task))) for task in coming
    }
    quality = [round(photo_project.quality(task, after[task].regions), 3) for task in coming]
    print(json.dumps({"version": version, "photographs": quality}))  # noqa: T201
    assert min(quality) >= 0.6

    open_task(page, url, photo_project.id, coming[0], regions=len(after[coming[0]].regions))
    drawn = drawn_regions(page)
    assert len(drawn) == len(after[coming[0]].regions)
    assert all((one.alpha > 0).any() for one in drawn)
    if screenshots is not None:
        page.screenshot(path=screenshots / "photographs-after.png")
    http.close()


def _serving(http: httpx.Client, project_id: int) -> str | None:
    """What answers in a project once it has learned."""
    (standing,) = http.get(f"/status/{project_id}").json()["projects"]
    run = standing["run"]
    assert run is None or run["state"] != "rejected", run
    found = standing["version"]
    return None if found is None else str(found)


def _shown(found: StoredPrediction) -> StoredPrediction | None:
    return found if found.regions else None


def _published(http: httpx.Client, base: str) -> tuple[str, ...]:
    """Versions that ever served beside the base; a training that ends otherwise ends the wait."""
    run = http.get("/status").json()["projects"][0]["run"]
    assert run is None or run["state"] in ("running", "published"), run
    return tuple(one for one in http.get("/versions").json()["versions"] if one != base)


def _of_version(found: StoredPrediction, version: str) -> StoredPrediction | None:
    return found if found.version == version else None


def _pushed(
    client: LabelStudioClient, project: UnseenProject, version: str
) -> dict[int, StoredPrediction] | None:
    """The newest prediction of every task nobody has annotated, once all are of a version."""
    open_tasks = [int(str(t["id"])) for t in client.raw_tasks(project.id) if not t["is_labeled"]]
    found = {task: newest(client, project, task) for task in open_tasks}
    return found if all(one.version == version for one in found.values()) else None


def _look_at_the_page(
    browser: Browser,
    learning: Ends,
    project: UnseenProject,
    version: str,
    screenshots: Path | None,
) -> None:
    """Reads /ui, then takes the version back with its button."""
    user, password = USER
    context = browser.new_context(
        viewport=VIEWPORT, http_credentials={"username": user, "password": password}
    )
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    errors: list[object] = []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(f"{learning.backend_url}/ui")
    page.locator(f'a[href$="/projects/{project.id}"]').click()
    # The title comes from Label Studio, in the background.
    title = page.get_by_role("heading", level=1, name=re.compile(rf"\w+ project {project.id}$"))
    expect(title).to_be_visible(timeout=1000 * PATIENCE_S)
    expect(page.get_by_text("Annotators see predictions of the new version")).to_be_visible()
    expect(page.get_by_role("cell", name=version, exact=True)).to_be_visible()
    # The chart begins with the second version that annotators corrected.
    expect(page.get_by_text(f"So far they corrected {CORRECTED} groups")).to_be_visible()
    pictures = page.locator(".groups img")
    expect(pictures).to_have_count(CORRECTED)
    for index in range(CORRECTED):
        pictures.nth(index).scroll_into_view_if_needed()
    for picture in pictures.all():
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("image => image.naturalWidth") > 0
    if screenshots is not None:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=screenshots / "ui.png", full_page=True)
    page.get_by_text("roll back…").first.click()
    page.get_by_role("button", name="Serve the shipped model from now on").click()
    expect(page.get_by_text("predictions of the shipped model again.")).to_be_visible()
    assert errors == []
    context.close()
