"""What a person does in Label Studio's pages: signs in, corrects a group, submits it, waits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import httpx
from playwright.sync_api import Page

from tests.e2e.editor import ARE_DRAWN, STORE, open_task
from tests.e2e.unseen_project import UnseenProject

PATIENCE_S = float(os.environ.get("CALICO_PATIENCE_S", "1200"))

_REPLACE = f"""(results) => {{
  const annotation = {STORE};
  annotation.deleteAllRegions();
  annotation.deserializeResults(results);
}}"""


def sign_in(page: Page, url: str, user: str, password: str) -> None:
    """Signs in to Label Studio."""
    page.goto(f"{url}/user/login")
    page.fill("input[name=email]", user)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)


def wait(condition: Callable[[], Any]) -> Any:
    """Returns what a condition gives once that is something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(1.0)
    return found


def model_state(url: str) -> str | None:
    """Says how far a backend has loaded its weights; None while it does not answer."""
    try:
        return str(httpx.get(f"{url}/health", trust_env=False).json()["model"])
    except httpx.HTTPError:
        return None


def correct(page: Page, url: str, project: UnseenProject, task_id: int, regions: int) -> None:
    """Opens a task, leaves the truth in it and submits."""
    open_task(page, url, project.id, task_id, regions=regions)
    leave_truth(page, project, task_id)


def leave_truth(page: Page, project: UnseenProject, task_id: int) -> None:
    """Leaves the truth in the open task and submits."""
    results = json.loads(project.answer(task_id))
    drawn = sum(one["type"] == "brush" for one in results)
    page.evaluate(_REPLACE, results)
    page.wait_for_function(ARE_DRAWN, arg=drawn)
    with page.expect_response(
        lambda answer: "/annotations" in answer.url and answer.request.method == "POST"
    ) as submitted:
        page.click("button[aria-label='Submit current annotation']")
    assert submitted.value.ok
    sent = submitted.value.request.post_data_json["result"]
    assert sum(one["type"] == "brush" for one in sent) == drawn
