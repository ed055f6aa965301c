"""`calico lint`: what it reports of a project and of records, with the shipped model."""

from __future__ import annotations

import io
import json
from contextlib import closing

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli import lint as command
from backend.cli.label_lint import (
    THUMB,
    LabeledOutline,
    LintGroup,
    choose_groups,
    lint_labels,
    region_picture,
)
from backend.cli.lint import text_sources
from backend.cli.lint_page import page_of
from backend.errors import SettingsError
from backend.label_studio.client import LabelStudioClient
from backend.settings import load_settings
from calico_model.data.synthetic import SceneSplit, write_groups
from calico_model.sources.source import Ability, Encoding, SourceDescription, SourceMask
from calico_model.types import ImageGroup
from tests.doubles import ModelDouble
from tests.unit.export.fake_studio import FakeStudio, config, drawn

SIDE = 96


def picture(number):
    """A disc in one half and a block in the other, on a shade of their own; with both masks."""
    rng = np.random.default_rng(number)
    pixels = np.full((SIDE, 2 * SIDE, 3), rng.integers(180, 250), np.uint8)
    y, x = np.mgrid[:SIDE, : 2 * SIDE]
    radius = rng.integers(20, 34)
    disc = (y - SIDE // 2) ** 2 + (x - SIDE // 2) ** 2 < radius**2
    block = (abs(y - SIDE // 2) < radius) & (abs(x - 3 * SIDE // 2) < radius)
    pixels[disc] = (200, 30, 40)
    pixels[block] = (30, 60, 190)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), disc, block


class LintedStudio(FakeStudio):
    """Fetches whole tasks, and lists them as pages of the Data Manager do."""

    def fetch_group(self, task):
        images = [self.fetch_file(url)[1] for url in task.image_urls]
        return ImageGroup(tuple(images), tuple(task.image_urls))


@pytest.fixture
def studio():
    """Twelve tasks: discs are wheel or tyre by turns, blocks are doors."""
    studio = LintedStudio(config("wheel", "tyre", "door", "doors"))
    for number in range(12):
        studio.files[f"/{number}.png"], disc, block = picture(number)
        task = studio.add_task(f"/{number}.png")
        label = "wheel" if number % 2 else "tyre"
        studio.annotate(task, [*drawn("d", disc, label), *drawn("b", block, "door")])
    return studio


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the command; the client of the fake Label Studio is closed by it."""

    def call(*options, studio=None):
        if studio is not None:
            transport = httpx.MockTransport(studio)
            client = LabelStudioClient("http://studio", "t" * 40, transport=transport)
            monkeypatch.setattr(command, "label_studio_of", lambda settings: client)
            monkeypatch.setattr(command, "image_source", lambda settings, client: studio)
        words = ["lint", *map(str, options), "--out", str(tmp_path / "lint.html")]
        words += ["--data-dir", str(tmp_path)]
        result = CliRunner().invoke(command_tree(words), words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result, json.loads(result.stdout.splitlines()[-1])

    return call


def test_a_label_with_two_names_is_reported_with_pictures(studio, run, tmp_path):
    result, report = run("--project", 7, "--ask", 0, studio=studio)
    assert result.exit_code == 1
    assert [set(one["labels"]) for one in report["alike_looks"]] == [{"wheel", "tyre"}]
    assert report["same_spelling"] == [["door", "doors"]]
    assert (report["groups"], report["regions"], report["findings"]) == (12, 24, 2)
    assert "look alike" in result.stdout
    assert "What to do" in result.stdout
    assert "no backend has run" in result.stderr
    page = (tmp_path / "lint.html").read_text("utf-8")
    assert page.count("<img ") == 8  # four of each label
    assert "data:image/jpeg;base64," in page


def test_labels_that_are_told_apart_are_no_finding(studio, run):
    studio.label_config = config("wheel", "tyre", "door")
    for task in studio.tasks.values():
        for one in task["annotations"][0]["result"]:
            if one["value"].get("labels") == ["tyre"]:
                one["value"]["labels"] = ["wheel"]
    result, report = run("--project", 7, "--ask", 0, studio=studio)
    assert result.exit_code == 0
    assert (report["findings"], report["judged"]) == (0, 2)
    assert "The model can tell all labels apart." in result.stdout


def test_words_are_asked_on_records(run, tmp_path):
    write_groups(
        tmp_path / "drawn", groups=2, seed=1, split=SceneSplit.SEEN, group_sizes=(2, 2), size_px=128
    )
    result, report = run("--data", tmp_path / "drawn", "--ask", 1)
    assert report["asked_groups"] == 1
    assert report["unknown_words"] == []
    assert report["groups"] == 2
    assert result.exit_code == (1 if report["findings"] else 0)


def test_a_project_or_data_is_needed(tmp_path, run):
    with pytest.raises(SettingsError, match="one of --project, --data and --coco"):
        run()
    with pytest.raises(SettingsError, match="one of --project, --data and --coco"):
        run("--project", 7, "--data", tmp_path)


def test_a_project_without_labels_is_refused(run):
    with pytest.raises(SettingsError, match="expected labeled groups"):
        run("--project", 7, studio=LintedStudio(config("wheel")))


def test_every_label_is_asked_about_as_often():
    labels = {0: ("a",), 1: ("a",), 2: ("a", "b"), 3: ("c",), 4: ("a",)}
    assert choose_groups(labels, 3) == [0, 2, 3]
    assert choose_groups(labels, 9) == [0, 1, 2, 3, 4]
    assert choose_groups(labels, 0) == []


@pytest.mark.parametrize("place", [np.s_[0:5, 0:7], np.s_[30:40, 50:60], np.s_[0:40, 0:60]])
def test_pictures_of_regions_at_the_border(place):
    image = np.zeros((40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[place] = True
    with closing(io.BytesIO(region_picture(image, mask))) as file:
        shown = np.asarray(Image.open(file))
    assert shown.shape == (THUMB, THUMB, 3)
    assert (shown[..., 0].astype(int) - shown[..., 1] > 100).any()  # the outline


class OneWord:
    """A source of masks that outlines the same half of the image for every name but "door"."""

    def describe(self):
        return SourceDescription("sam3", frozenset({Ability.TEXT}), "w", "own", 1)

    def encode(self, image):
        return Encoding(image.shape[:2], image, 0)

    def segment_names(self, encoding, names):
        left = np.zeros(encoding.size_hw, bool)
        left[:, : encoding.size_hw[1] // 2] = True
        return [SourceMask(~left if name == "door" else left, 0.9, name) for name in names]


def test_sources_that_take_words_are_asked_and_named():
    """A group shows a wheel, a tyre in its place, and a door."""
    left = np.zeros((20, 40), bool)
    left[:, :20] = True
    outlines = tuple(
        LabeledOutline(0, label, mask)
        for label, mask in (("wheel", left), ("tyre", left), ("door", ~left))
    )

    def load(number):
        image = np.full((20, 40, 3), number, np.uint8)
        return LintGroup(f"{number}", ImageGroup((image,), ("a",)), outlines)

    report = lint_labels(ModelDouble(), load, 3, ask=3, sources=(OneWord(),))
    assert [(pair.source, pair.labels) for pair in report.words] == [("sam3", ("tyre", "wheel"))]
    assert "tyre and wheel are one word to sam3" in page_of(report, "t")


def test_a_source_that_cannot_be_read_is_left_out(tmp_path, capsys):
    settings = load_settings(data_dir=tmp_path, sources=("sam3=" + str(tmp_path / "none"),))
    assert text_sources(settings) == ()
    assert "source sam3 is left out" in capsys.readouterr().err
