"""The page at /ui in a real browser: light and dark, by keyboard, live, and the way back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from backend.app import close_app, create_app
from backend.learning.overview import Overview
from backend.learning.schedule import Cause
from backend.settings import load_settings
from backend.ui.pages import Live, build_pages
from backend.ui.pictures import GroupPictures
from calico_model.types import ImageGroup
from tests.doubles import ModelDouble
from tests.e2e.conftest import VIEWPORT
from tests.unit.learning.annotated import box, event, results
from tests.unit.learning.school import PROJECT, TRAINED, School

pytestmark = pytest.mark.e2e

TITLE = "The doors of all cars in the harbour, seen from the quay, second year, " * 3
USER = {"username": "user", "password": "word"}
LID, RIM = box(10, 10, 30, 40), box(0, 50, 5, 60)

# Contrast of every text with what it stands on (WCAG 2.2, 1.4.3), the smallest first.
_CONTRASTS = """() => {
  const light = c => { const [r, g, b] = c.map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const rgba = s => s.match(/[\\d.]+/g).map(Number);
  const ground = e => { for (; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const found = [];
  for (const e of document.body.querySelectorAll('*')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.checkVisibility() || ['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ink = light(rgba(e.namespaceURI.endsWith('svg') ? style.fill : style.color).slice(0, 3));
    const paper = light(ground(e));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    found.push([ratio, e.tagName + ' ' + e.textContent.trim().slice(0, 30)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


_UNTIL_SCROLLED = """box => new Promise(done => {
  const look = () => box.scrollLeft > 0 ? done() : requestAnimationFrame(look);
  look();
})"""


class Drawn:
    def fetch_group(self, task: Any) -> ImageGroup:
        images = tuple(np.full((40, 60, 3), 90, np.uint8) for _ in task.image_urls)
        return ImageGroup(images, tuple(task.image_urls))


class NoModel(ModelDouble):
    version = "calico-tiny-00000001"

    def predict(self, group: ImageGroup) -> Any:
        raise AssertionError("a page must not ask the model")


@pytest.fixture
def school(tmp_path: Path) -> Iterator[School]:
    """Two published versions, and corrections of predictions of each."""
    made = School(tmp_path)
    made.correct(*TRAINED[:3])
    made.train()
    answer(made, TRAINED[10], NoModel.version, ("a", box(10, 10, 30, 22), "lid"))
    answer(made, TRAINED[11], made.current.id, ("a", box(10, 10, 30, 34), "lid"))
    made.correct(*TRAINED[3:6])
    made.train()
    answer(made, TRAINED[12], made.current.id, ("a", LID, "lid"))
    yield made
    made.store.close()


def answer(school: School, task: int, version: str, predicted: Any) -> None:
    """A task that was predicted, and corrected to a lid and a rim."""
    body = b'{"score": 0.5, "regions": %s}' % json.dumps(results(predicted)).encode()
    school.store.keep_prediction(
        f"k{task}", body, project_id=PROJECT, task_id=task, version=version
    )
    left = results(("a", LID, "lid"), ("b", RIM, "rim"))
    school.store.record_events([event(900 + task, left, task=task)])
    school.derivation.derive(PROJECT)


@pytest.fixture
def url(tmp_path: Path, school: School) -> Iterator[str]:
    settings = load_settings(data_dir=tmp_path, basic_auth_user="user", basic_auth_password="word")
    app = create_app(settings, load=NoModel, images=Drawn())
    app.register_blueprint(
        build_pages(
            Overview(school.store, school.versions),
            GroupPictures(school.derivation, Drawn()),
            live=lambda: Live("ready", tasks_waiting=0, changes_waiting=0, trainers=1),
            title=lambda _project_id: TITLE,
        )
    )
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}/ui"
    server.shutdown()
    thread.join()
    server.server_close()
    close_app(app)


@pytest.fixture(params=["light", "dark"])
def page(browser: Browser, request: pytest.FixtureRequest, url: str) -> Iterator[Page]:
    context = browser.new_context(
        viewport=VIEWPORT, http_credentials=USER, color_scheme=request.param
    )
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(url)
    yield page
    assert errors == []
    context.close()


def test_the_pages_can_be_read_and_walked_through(page: Page, school: School) -> None:
    assert page.evaluate(_CONTRASTS)[0][0] >= 4.5
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the only project
    expect(page.get_by_role("heading", name=f"project {PROJECT}")).to_be_visible()
    expect(page.get_by_text("Annotators see predictions of the new version")).to_be_visible()
    page.wait_for_load_state("load")  # the style sheet too: without it black may be on black
    contrasts = page.evaluate(_CONTRASTS)
    assert contrasts[0][0] >= 4.5, contrasts[:5]
    expect(page.get_by_role("img", name="Quality of predictions")).to_be_visible()
    expect(page.locator(".groups img")).to_have_count(3)
    page.locator(".groups img").last.scroll_into_view_if_needed()
    for picture in page.locator(".groups img").all():
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("image => image.naturalWidth") > 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # What does not fit on a phone is reached by keyboard.
    labels = page.get_by_role("region", name="Labels")
    labels.focus()
    page.keyboard.press("ArrowRight")
    labels.evaluate(_UNTIL_SCROLLED)


def test_a_version_is_taken_back_by_hand(page: Page, school: School) -> None:
    second, first = (version.id for version in school.versions.all(PROJECT))
    page.get_by_role("link", name=TITLE.strip()).click()
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=first, exact=True))
    row.get_by_text("roll back").click()
    row.get_by_role("button").click()
    expect(page.get_by_text(f"predictions of version {first} again.")).to_be_visible()
    assert school.current.id == first
    expect(page.get_by_text("Somebody took it back on the page.").first).to_be_visible()


def test_training_is_followed_without_a_click(page: Page, school: School) -> None:
    page.get_by_role("link", name=TITLE.strip()).click()
    run_id = school.runs.claim(PROJECT, Cause.COUNT)
    school.runs.report(run_id, stage="learning", progress=0.4, eta_s=21.0)
    expect(page.get_by_text("learning, 40%, about 21 s left")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("progressbar")).to_be_visible()
