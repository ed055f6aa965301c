"""One real Label Studio, one real backend with the shipped weights, one Chromium, per session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from backend.cli.connect import Ends
from backend.cli.demo import Demo
from tests.e2e.annotator import sign_in

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    # Whatever a page asks for, nothing but this machine is ever contacted.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
VIEWPORT = {"width": 1480, "height": 960}
GROUPS = 3


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: Label Studio commits often."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="calico-e2e-", dir=parent))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def demo(scratch: Path) -> Iterator[Demo]:
    """Label Studio, the backend, and a connected project of three pre-annotated groups."""
    demo = Demo(scratch / "demo", GROUPS, weights=None)
    try:
        demo.start().client.close()
        yield demo
    finally:
        demo.stop()


@pytest.fixture(scope="session")
def ends(demo: Demo) -> Iterator[Ends]:
    """What a second `calico demo` gets: everything runs and is done already."""
    ends = demo.start()
    yield ends
    ends.client.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    assert path is not None, "Chromium is missing; `make test` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, demo: Demo, ends: Ends) -> Iterator[Page]:
    """A page of somebody who has signed in to Label Studio."""
    context = browser.new_context(viewport=VIEWPORT)
    page = context.new_page()
    sign_in(page, ends.client.url, demo.state.account.user, demo.state.account.password)
    yield page
    context.close()


@pytest.fixture
def screenshots() -> Path | None:
    """Where pictures are wanted, or None."""
    wanted = os.environ.get("CALICO_SCREENSHOTS")
    return Path(wanted) if wanted else None
