"""`calico caption`: of pictures, and of what people drew and wrote in a project."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backend.cli import caption as command
from backend.cli import command_tree
from backend.errors import SettingsError
from backend.label_studio.client import LabelStudioClient
from calico_model.data.casting import Stream
from calico_model.data.synthetic import SceneSplit, draw_group, group_rng
from tests.unit.cli.test_lint_command import LintedStudio
from tests.unit.export.fake_studio import SIZE, config, drawn, png

BIKE, WHEEL = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
BIKE[5:35, 5:55] = True
WHEEL[20:35, 5:20] = True


def run(*words):
    result = CliRunner().invoke(command_tree(["caption"]), ["caption", *map(str, words)])
    if result.exception is not None:
        raise result.exception
    return result, json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def studio(monkeypatch):
    """One task that was drawn, with a caption; one without; one that nobody annotated."""
    area = '<TextArea name="caption_{{idx}}" toName="image_{{idx}}" editable="true"/>'
    studio = LintedStudio(
        config("wheel", "bike").replace("</View></Repeater>", f"{area}</View></Repeater>")
    )
    studio.files = {f"/{number}.png": png(90 + number) for number in range(3)}
    results = [
        *drawn("b", BIKE, "bike", kind="common_object"),
        *drawn("w", WHEEL, "wheel", kind="common_part"),
    ]
    text = {
        "id": "t",
        "from_name": "caption_0",
        "to_name": "image_0",
        "type": "textarea",
        "value": {"text": ["An old bike.", "Its wheels are flat."]},
    }
    studio.annotate(studio.add_task("/0.png"), [*results, text])
    studio.annotate(studio.add_task("/1.png"), results)
    studio.add_task("/2.png")
    client = LabelStudioClient("http://s", "t" * 40, transport=httpx.MockTransport(studio))
    monkeypatch.setattr(command, "label_studio_of", lambda settings: client)
    monkeypatch.setattr(command, "image_source", lambda settings, client: studio)
    return studio


@pytest.mark.usefixtures("studio")
def test_what_people_drew_and_wrote_is_exported(tmp_path):
    result, summary = run("--project", 7, "--out", tmp_path / "captions.json")
    edited, written = json.loads((tmp_path / "captions.json").read_text("utf-8"))
    assert edited["caption"] == "An old bike. Its wheels are flat."
    assert [(one["phrase"], one["ids"], one["parent"]) for one in edited["details"]] == [
        ("bike", [1], None),
        ("wheels", [2], 0),
    ]
    assert (edited["task"], edited["is_edited"], written["is_edited"]) == (1, True, False)
    assert written["caption"].startswith("Image 1 shows a large bike (grey). It has a wheel")
    assert summary["groups"] == 2
    assert summary["phrases"]["part"] == 2
    assert "An old bike." in result.stdout


def test_a_project_without_annotations_is_refused(studio, tmp_path):
    studio.tasks.clear()
    with pytest.raises(SettingsError, match="no task of project 7 has annotated regions"):
        run("--project", 7, "--out", tmp_path / "captions.json")


def test_pictures_get_a_caption_of_what_the_model_finds(tmp_path):
    rng = group_rng(Stream.EVALUATION, 3, 0)
    files = []
    for number, scene in enumerate(draw_group(rng, split=SceneSplit.SEEN, size_px=160)):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(scene.image).save(files[-1])
    _, summary = run(*files, "--out", tmp_path / "one.json")
    (entry,) = json.loads((tmp_path / "one.json").read_text("utf-8"))
    assert summary["groups"] == 1
    assert summary["phrases"]["object"] == sum(one["level"] == "object" for one in entry["details"])
    assert entry["regions"]
    assert entry["caption"]


def test_either_pictures_or_a_project(tmp_path):
    for words in ((), (tmp_path / "a.png", "--project", 7)):
        with pytest.raises(SettingsError, match="either pictures or --project"):
            run(*words)
    with pytest.raises(SettingsError, match="--out: expected a file"):
        run("--project", 7, "--out", tmp_path)
