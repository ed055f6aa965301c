"""Photographs of a folder in a real Label Studio: shown, known again, and learned from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.connect import Ends, connect_project
from backend.cli.demo import Demo
from tests.unit.cli.photo_files import draw
from tests.unit.label_studio.golden_files import config

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
TIMEOUT_S = 60.0


@pytest.fixture
def run(ends: Ends, demo: Demo, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a command at the demo's Label Studio; returns its last line."""

    def start(*words: object) -> dict[str, Any]:
        line = [str(word) for word in words]
        result = CliRunner().invoke(command_tree(line), line, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        said: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return said

    def at_studio(*words: object) -> dict[str, Any]:
        key = demo.state.account.api_key
        more = ("--url", ends.client.url, "--api-key", key, "--data-dir", tmp_path / "data")
        return start(*words, *(more if words[0] == "import" else ()))

    return at_studio


def shown(ends: Ends, project_id: int) -> list[list[bytes]]:
    """What a browser of somebody who has signed in gets for the images of every task."""
    headers = {"Authorization": ends.client.authorization.header()}
    tasks = []
    for task in ends.client.raw_tasks(project_id):
        addresses: Any = task["data"]
        answers = [
            httpx.get(ends.client.url + url, headers=headers, timeout=60, trust_env=False)
            for url in addresses["images"]
        ]
        tasks.append([answer.raise_for_status().content for answer in answers])
    return tasks


def test_served_and_copied_photographs_are_shown_and_masks_are_learned_from(
    ends: Ends, demo: Demo, tmp_path: Path, run: Callable[..., dict[str, Any]]
) -> None:
    folder = demo.files / "brought ätwo"
    photos = [draw(folder / f"{pair}" / f"{side}.jpg", 2 * pair + side) for pair in (1, 2)
              for side in (0, 1)]  # fmt: skip
    labels = tmp_path / "coco.json"
    labels.write_text(json.dumps(one_leg()))
    project = ends.client.create_project("brought", config("cosegment_labels")).id
    connect_project(ends, project)

    said = run("import", folder, "--project", project, "--labels", labels)
    assert (said["files"], said["imported_groups"]) == ("served", 2)
    assert said["labels"]["regions"] == 1
    contents = [photo.read_bytes() for photo in photos]
    assert shown(ends, project) == [contents[:2], contents[2:]]
    again = run("import", folder, "--project", project, "--labels", labels)
    assert (again["already_imported"], again["imported_groups"]) == (4, 0)
    assert again["labels"]["already_labeled"] == 1

    elsewhere = tmp_path / "elsewhere"
    extra = [draw(elsewhere / f"{side}.png", 20 + side) for side in (0, 1)]
    said = run("import", elsewhere, "--project", project)
    assert (said["files"], said["imported_groups"]) == ("copied", 1)
    assert shown(ends, project)[2] == [photo.read_bytes() for photo in extra]

    # The annotation reached the journal through the webhook, as what a person drew.
    deadline = time.monotonic() + TIMEOUT_S
    tasks: dict[str, Any] = {}
    while tasks.get("added") != 1 and time.monotonic() < deadline:
        words = ("corrections", "--project", project, "--data-dir", demo.folder / "backend")
        (tasks,) = run(*words)["projects"]
    assert (tasks["tasks"], tasks["added"], tasks["unseen"]) == (1, 1, 0)


def one_leg() -> dict[str, object]:
    square = [10, 10, 30, 10, 30, 40, 10, 40]
    return {
        "images": [{"id": 1, "file_name": "1/0.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "leg", "supercategory": "chair"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square]}],
    }
