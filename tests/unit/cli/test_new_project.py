"""What `calico new-project` reads from its options, and what it prints without Label Studio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.coco_labels import CocoLabels
from backend.cli.new_project import parse_labels, read_categories
from backend.errors import SettingsError
from backend.label_schema import LabelValue
from backend.label_studio.group_config import labels_config
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.palette import NO_HOTKEY


def run(*options: str) -> str:
    arguments = ["new-project", "--title", "Cars", *options]
    result = CliRunner().invoke(command_tree(arguments), arguments)
    if isinstance(result.exception, SettingsError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_names_and_their_other_words() -> None:
    assert parse_labels("seat, leg=foot|paw ,,") == (
        LabelValue("seat"),
        LabelValue("leg", ("foot", "paw")),
    )


@pytest.mark.parametrize("text", ['"seat, rear",wheel', "wheel; door", "wheel,'door'"])
def test_names_that_are_divided_in_another_way_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--labels: expected names divided by commas"):
        parse_labels(text)


def test_quotation_marks_and_other_signs_within_a_name_stay() -> None:
    names = ['15" rim', "driver's seat", "Tür", "left/right", "<b>&amp"]
    config, _, _ = run("--labels", ",".join(names), "--dry-run").strip().rpartition("\n")
    schema = parse_label_config(config)
    assert schema.name is not None
    assert [label.value for label in schema.name.values] == names


def test_a_name_that_cannot_be_held_is_blamed_on_the_option_it_came_from(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="^--labels: expected names that differ"):
        run("--labels", "wheel,Wheel", "--dry-run")
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"categories": [{"name": "wheel"}, {"name": "Wheel"}]}))
    with pytest.raises(SettingsError, match="^--labels-from: expected names that differ"):
        run("--labels-from", str(file), "--dry-run")


def test_categories_of_a_coco_file(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    names = ["wheel", "door", "wheel", "seat, rear"]
    path.write_text(json.dumps({"images": [], "categories": [{"id": 1, "name": n} for n in names]}))
    assert [label.value for label in read_categories(path)] == ["wheel", "door", "seat rear"]


def test_the_labels_of_a_coco_file_take_its_masks(tmp_path: Path) -> None:
    """What `calico import --labels` finds in the file, the project has."""
    file = tmp_path / "coco.json"
    names = [("(whole object)", "car"), ("wheel", "car"), ("seat, rear", "car"), ("door", "van")]
    categories = [
        {"id": number, "name": name, "supercategory": owner}
        for number, (name, owner) in enumerate(names, start=1)
    ]
    square = [[0, 0, 4, 0, 4, 4, 0, 4]]
    masks = [
        {"id": number, "image_id": 1, "category_id": number, "segmentation": square}
        for number in range(1, 5)
    ]
    image = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}
    coco = {"images": [image], "annotations": masks, "categories": categories}
    file.write_text(json.dumps(coco))
    schema = parse_label_config(labels_config(read_categories(file)))
    assert CocoLabels(file, ["a.jpg"], schema).unknown == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("[]", "is not COCO"), ('{"categories": [{}]}', "is not COCO")],
)
def test_another_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=f"--labels-from: .*{message}"):
        read_categories(path)


@pytest.mark.parametrize("names", [("--open",), ("--labels", "wheel,door")])
def test_a_text_above_the_images_can_be_highlighted(names: tuple[str, ...]) -> None:
    config, _, _ = run(*names, "--text", "--dry-run").strip().rpartition("\n")
    schema = parse_label_config(config)
    assert (schema.highlights, schema.texts) == (frozenset({"phrase"}), ("text",))
    plain, _, _ = run(*names, "--dry-run").strip().rpartition("\n")
    without = parse_label_config(plain)
    assert (without.highlights, without.texts) == (frozenset(), ())
    assert schema.slots == without.slots
    assert schema.name == without.name
    keys = [part.split('"')[0] for part in config.split('hotkey="')[1:]]
    free = [key for key in keys if key != NO_HOTKEY]
    assert len(free) == len(set(free)), "two labels have one key"


def test_a_dry_run_prints_the_config_and_a_line_of_json() -> None:
    config, _, last = run("--labels", "wheel,door", "--dry-run").strip().rpartition("\n")
    schema = parse_label_config(config)
    assert schema.name is not None
    assert [label.value for label in schema.name.values] == ["wheel", "door"]
    assert json.loads(last) == {"title": "Cars", "labels": 2, "dry_run": True}


@pytest.mark.parametrize("options", [(), ("--open", "--labels", "a")])
def test_one_source_of_names_is_expected(options: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="expected one of the three"):
        run(*options)


def test_without_an_address_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    with pytest.raises(
        SettingsError, match="LABEL_STUDIO_URL: not set in this shell; set it, or give --url"
    ):
        run("--open")
