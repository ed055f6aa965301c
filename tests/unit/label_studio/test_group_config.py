"""Configs that are written for given labels: what they hold, and what the parser reads in them."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from backend.errors import SettingsError
from backend.label_schema import ImageLayout, LabelValue, MaskFamily
from backend.label_studio.group_config import (
    MAX_LABELS,
    labels_config,
    open_config,
    text_config,
)
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.palette import NO_HOTKEY, colours, hotkeys
from calico_model.types import RegionKind

FOLDER = Path(__file__).parents[3] / "label_config"
LABELS = (
    LabelValue("chair"),
    LabelValue('seat "soft" & <low>', ("cushion", "pad")),
    LabelValue("Sitzfläche"),
)
# Keys of the tools that the editor shows for these configs, and of what it does with regions.
EDITOR_KEYS = set("behkmopruvw") | {"shift+1", "shift+2"}
EXAMPLE = (
    *(LabelValue(name) for name in ("chair", "stool", "table")),
    LabelValue("seat", ("cushion",)),
    LabelValue("leg", ("foot",)),
    LabelValue("backrest", ("back",)),
    LabelValue("armrest", ("arm",)),
    LabelValue("tabletop", ("top",)),
    LabelValue("drawer"),
)


def numbered(count: int) -> list[LabelValue]:
    return [LabelValue(f"part {number}") for number in range(count)]


def test_the_files_to_paste_are_what_new_project_writes() -> None:
    assert (FOLDER / "cosegment_open.xml").read_text("utf-8") == open_config()
    assert (FOLDER / "cosegment_labels.xml").read_text("utf-8") == labels_config(EXAMPLE)
    assert (FOLDER / "cosegment_text.xml").read_text("utf-8") == text_config()


def test_the_parser_reads_labels_with_their_other_words() -> None:
    schema = parse_label_config(labels_config(LABELS))
    assert schema.name is not None
    assert schema.kind is not None
    assert schema.name.values == LABELS
    assert set(schema.kind.values) == set(RegionKind)
    assert (schema.layout, schema.mask_family) == (ImageLayout.REPEATER, MaskFamily.BRUSH)
    assert schema.relation == "same_part"
    for index in range(8):
        slot = schema.slot(index)
        assert (slot.image, slot.ask) == (f"image_{index}", f"ask_{index}")
        assert slot.smart == (f"point_{index}", f"box_{index}")


def test_an_open_config_has_kinds_as_labels_and_any_name() -> None:
    schema = parse_label_config(open_config())
    assert schema.name is not None
    assert schema.name.is_open
    assert schema.slot(1).kind == "kind_1"


@pytest.mark.parametrize("config", [open_config(), labels_config(numbered(70))])
def test_the_style_survives_label_studios_escaping(config: str) -> None:
    style = fromstring(config).findtext("Style")
    assert style is not None
    assert not set("<>&") & set(style)
    assert style.count("{") == style.count("}")


@pytest.mark.parametrize("count", [1, 30, MAX_LABELS])
def test_every_label_has_a_key_that_no_tool_has(count: int) -> None:
    config = fromstring(labels_config(numbered(count)))
    keys = [tag.get("hotkey", "") for tag in config.iter("Label")]
    real = [key for key in keys if key != NO_HOTKEY]
    assert len(keys) == count
    assert len(set(real)) == len(real) == min(count, 48)
    assert not set(real) & EDITOR_KEYS
    # Without a key of its own, the editor would give a choice one that a label or a tool has.
    assert {tag.get("hotkey") for tag in config.iter("Choice")} == {NO_HOTKEY}


def test_colours_are_far_apart_and_stay_when_labels_are_added() -> None:
    few, many = colours(12), colours(40)
    assert many[:12] == few
    assert len(set(many)) == 40
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in many)
    rgb = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in few]
    nearest = min(
        sum(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in combinations(rgb, 2)
    )
    assert nearest > 80
    assert hotkeys(3) == ("1", "2", "3")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "expected 1 to 200 names, got 0"),
        (numbered(MAX_LABELS + 1), "got 201"),
        ([LabelValue(" ")], "printable characters"),
        ([LabelValue("$parts")], r"without \$ at the start"),
        ([LabelValue("x" * 200)], "1 to 80 printable characters, got 200: 'x{40}[.]{3}'$"),
        ([LabelValue("seat"), LabelValue("Seat")], "more than case, got 'seat' and 'Seat'"),
        ([LabelValue("seat", ("pad",)), LabelValue("pad")], "'pad' twice"),
        ([LabelValue("wheel"), LabelValue("Unique parts")], "'Unique parts', which is the role"),
        ([LabelValue("wheel", ("common_part",))], "'common_part', which is the role"),
    ],
)
def test_labels_that_label_studio_cannot_hold_are_refused(
    labels: list[LabelValue], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        labels_config(labels)
