"""What was drawn with other tools than the brush, and what a prompt leaves behind, as masks."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from backend.label_studio.annotation import (
    parse_drawing,
)
from backend.label_studio.brush import encode_mask
from backend.label_studio.interactive_context import read_prompts
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import closed_labels
from backend.label_studio.wire import decode_results
from tests.unit.label_studio.golden_files import config
from tests.unit.label_studio.test_annotation import FRAME, MASK, SHAPE, attribute, regions_of

NAMED = parse_label_config(config("cosegment_labels"))
SHAPES = {
    "rectangle": {"x": 0, "y": 25, "width": 50, "height": 50},
    "ellipse": {"x": 50, "y": 50, "radiusX": 40, "radiusY": 40},
    "polygon": {"points": [[0, 25], [50, 25], [50, 75], [0, 75]]},
    "vector": {
        "closed": True,
        "vertices": [{"x": x, "y": y} for x, y in ((0, 25), (50, 25), (50, 75), (0, 75))],
    },
}


def drawing_of(*results, schema=NAMED):
    return parse_drawing(json.dumps(results).encode(), schema)


def drawn(tool, value, **more):
    return FRAME | {"id": "s", "from_name": "shape_0", "type": tool, "value": value} | more


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("tool", SHAPES)
def test_every_shape_is_a_mask_with_the_label_its_tag_or_a_labels_tag_gives(tool, with_labels):
    value = SHAPES[tool]
    if with_labels:
        results = [drawn(f"{tool}labels", value | {f"{tool}labels": ["seat"]})]
    else:
        label = FRAME | {"id": "s", "from_name": "part_0", "type": "labels"}
        results = [drawn(tool, value), label | {"value": value | {"labels": ["seat"]}}]
    drawing = drawing_of(*results)
    (region,) = drawing.regions
    assert (region.id, region.label, region.is_outline) == ("s", "seat", True)
    assert drawing.unread == ()
    if tool != "ellipse":
        assert np.argwhere(region.mask).tolist() == [[r, c] for r in (1, 2) for c in range(3)]


def test_a_magic_wand_is_read_as_the_brush_it_draws_with():
    (region,) = regions_of(SHAPE | {"type": "magicwand", "from_name": "wand_0"})
    assert np.array_equal(region.mask, MASK)


OPEN_LINE = {"vertices": SHAPES["vector"]["vertices"], "closed": False}


@pytest.mark.parametrize(
    ("tool", "value"),
    [
        ("keypoint", {"x": 10, "y": 10, "width": 1}),
        ("vector", OPEN_LINE),
        ("polygon", SHAPES["polygon"] | {"closed": False}),
        ("rectangle", {"x": 10, "y": 10, "width": 5}),
        ("rectangle", {"x": "10", "y": 10, "width": 5, "height": 5}),
        ("ellipse", {"x": 10, "y": 10, "radiusX": 5}),
        ("ellipse", {"x": 1e99, "y": 10, "radiusX": 5, "radiusY": 5}),
        ("brush", {"format": "rle"}),
        ("brush", {"rle": None}),
        ("bitmask", {"imageDataURL": 7}),
    ],
)
@pytest.mark.parametrize("is_tag_of_its_own", [False, True])
def test_what_is_no_mask_leaves_its_label_unknown(tool, value, is_tag_of_its_own):
    if is_tag_of_its_own:
        results = [drawn(f"{tool}labels", value | {f"{tool}labels": ["leg"]})]
    else:
        said = FRAME | {"id": "s", "from_name": "part_0", "type": "labels"}
        results = [drawn(tool, value), said | {"value": {"labels": ["leg"]}}]
    drawing = drawing_of(*results)
    assert drawing.regions == ()
    assert [(one.image_index, one.label) for one in drawing.unread] == [(0, "leg")]


@pytest.mark.parametrize("tool", ["polygon", "cuboidlabels", 5, None])
def test_what_says_no_label_that_we_can_read_may_be_any(tool):
    value = {"points": [[1, 1], "x"], "cuboidlabels": ["leg"]}
    (unread,) = drawing_of(drawn(tool, value, original_width=None)).unread
    assert (unread.image_index, unread.label) == (0, None if isinstance(tool, str) else "leg")


def test_a_name_that_cannot_be_read_may_be_any():
    name = FRAME | {"id": "r", "from_name": "part_0", "type": "labels", "value": {"labels": "leg"}}
    drawing = drawing_of(SHAPE, name)
    assert [region.label for region in drawing.regions] == [None]
    assert [one.label for one in drawing.unread] == [None]


def test_a_prompt_left_behind_is_a_question_and_no_drawing():
    box = {"x": 0, "y": 0, "width": 50, "height": 50}
    prompts = [
        drawn("rectangle", box, from_name="box_0"),
        drawn("keypoint", {"x": 5, "y": 5, "width": 1}, id="k", from_name="point_0"),
    ]
    assert drawing_of(*prompts) == drawing_of()
    label = FRAME | {"id": "s", "from_name": "part_0", "type": "labels"}
    (unread,) = drawing_of(*prompts, label | {"value": box | {"labels": ["leg"]}}).unread
    assert (unread.id, unread.label) == ("s", "leg")


def test_an_accepted_suggestion_keeps_its_mask_beside_the_click_that_asked_for_it():
    click = drawn("keypoint", {"x": 5, "y": 5, "width": 1}, id="r", from_name="point_0")
    for results in ((click, SHAPE), (SHAPE, click)):
        drawing = drawing_of(*results)
        assert [region.id for region in drawing.regions] == ["r"]
        assert drawing.unread == ()


def without_ids(results):
    empty = itertools.cycle([None, "", None, 0])
    return [result | {"id": next(empty)} for result in results]


def test_masks_without_ids_are_regions_of_their_own():
    masks = [np.roll(MASK, step) for step in range(4)]
    results = [
        FRAME
        | {
            "id": None,
            "from_name": "mask_0",
            "type": "brushlabels",
            "value": {"format": "rle", "rle": encode_mask(mask), "brushlabels": [f"part {number}"]},
        }
        for number, mask in enumerate(masks)
    ]
    schema = parse_label_config(config("alternative_repeater_brushlabels_keypointlabels"))
    found = regions_of(*results, schema=schema)
    assert len({region.id for region in found}) == 4
    assert all(np.array_equal(one.mask, mask) for one, mask in zip(found, masks, strict=True))
    again = regions_of(*results, schema=schema)
    assert [region.id for region in again] == [region.id for region in found]


def test_what_repeats_a_shape_without_id_belongs_to_it():
    results = []
    for number, label in enumerate(["seat", "leg", "leg"]):
        value = {"rle": encode_mask(np.roll(MASK, number // 2))}  # two masks are equal
        frame = FRAME | {"to_name": "image_0"}
        results += [
            frame | {"from_name": "mask_0", "type": "brush", "value": value},
            frame | {"from_name": "part_0", "type": "labels", "value": value | {"labels": [label]}},
        ]
    assert [one.label for one in drawing_of(*without_ids(results)).regions] == [
        "seat",
        "leg",
        "leg",
    ]
    shuffled = [*results[::2], *results[1::2]]
    assert [one.label for one in drawing_of(*shuffled).regions] == ["seat", "leg", "leg"]


def test_a_text_about_the_whole_task_belongs_to_no_region():
    note = FRAME | {"id": None, "from_name": "part_0", "type": "labels", "value": {"labels": ["x"]}}
    (region,) = drawing_of(SHAPE | {"id": None}, note).regions
    assert region.label is None


def test_one_id_on_two_images_is_two_regions():
    other = SHAPE | {"to_name": "image_1", "from_name": "mask_1"}
    assert [one.image_index for one in regions_of(SHAPE, other)] == [0, 1]


def test_labels_that_hold_a_mask_are_a_region_as_in_the_editor():
    value = SHAPE["value"] | {"labels": ["seat"]}
    (region,) = drawing_of(attribute("part_0", "labels") | {"value": value}).regions
    assert region.label == "seat"
    assert np.array_equal(region.mask, MASK)


def test_a_region_keeps_all_its_labels():
    name = attribute("part_0", "labels", labels=["seat", "leg", "seat"])
    (region,) = drawing_of(SHAPE, name).regions
    assert region.labels == ("seat", "leg")
    text = attribute("part_0", "textarea", text=["lid", " ", "cover"])
    (region,) = regions_of(SHAPE, text)
    assert region.labels == ("lid", "cover")
    assert regions_of(SHAPE)[0].labels == ()


@pytest.mark.parametrize(
    "value",
    [
        {"x": 0, "y": 25, "width": 50, "height": 50},
        {"x": 50, "y": 25, "width": 100 / 3, "height": 75, "rotation": 90},  # 2 x 3 pixels, turned
        {"x": 50, "y": 75, "width": 50, "height": 50, "rotation": 180},
        {"x": 50, "y": 75, "width": -50, "height": -50},
    ],
)
def test_a_box_prompt_is_where_it_was_drawn_from_whichever_corner(value):
    results = decode_results(json.dumps([drawn("rectangle", value, from_name="box_0")]).encode())
    (prompt,) = read_prompts(results, NAMED)
    assert prompt.box == pytest.approx((0, 1, 3, 3))


def test_a_box_has_the_label_that_the_editor_writes_beside_it():
    """Label Studio 1.23.2: with a label chosen, a drawn box is two results of one id."""
    frame = {"original_width": 388, "original_height": 330, "image_rotation": 0, "id": "2SsQ_zM-pA"}
    place = {"x": 45.7, "y": 35.4, "width": 37.1, "height": 19.5, "rotation": 0}
    schema = parse_label_config(config("cosegment_labels"))
    slot = schema.slot(0)
    label = closed_labels(schema)[1].value
    box = frame | {"from_name": "box_0", "to_name": slot.image, "type": "rectangle", "value": place}
    names = frame | {"from_name": "part_0", "to_name": slot.image, "type": "labels"}
    names |= {"value": place | {"labels": [label]}}
    for results in ([box, names], [names, box]):
        (prompt,) = read_prompts(decode_results(json.dumps(results).encode()), schema)
        assert (prompt.label, prompt.is_click) == (label, False)
    other = names | {"id": "of another region"}
    (prompt,) = read_prompts(decode_results(json.dumps([box, other]).encode()), schema)
    assert prompt.label is None


def test_prompts_without_ids_stay_apart():
    clicks = [drawn("keypoint", {"x": x, "y": 1}, id=None) for x in (1, 2)]
    prompts = read_prompts(decode_results(json.dumps(clicks).encode()), NAMED)
    assert len({prompt.id for prompt in prompts}) == 2


def test_what_is_drawn_on_an_image_of_another_name_may_be_on_any():
    labels = {"brushlabels": ["leg"]} | SHAPE["value"]
    drawing = drawing_of(SHAPE | {"type": "brushlabels", "to_name": "photo", "value": labels})
    assert drawing.regions == ()
    assert {one.image_index for one in drawing.unread} == set(range(8))
    assert {one.label for one in drawing.unread} == {"leg"}


def test_what_is_drawn_on_something_else_says_nothing_about_the_images():
    schema = parse_label_config(
        '<View><Text name="t" value="$t"/><Image name="ref" value="$r"/>'
        '<Image name="image_0" value="$i"/>'
        '<BrushLabels name="mask_0" toName="image_0"><Label value="leg"/></BrushLabels></View>'
    )
    for name in ("t", "ref"):
        assert drawing_of(SHAPE | {"to_name": name}, schema=schema) == drawing_of(schema=schema)
    assert drawing_of(SHAPE | {"to_name": "gone"}, schema=schema).unread


def test_labels_of_one_tag_add_up_if_they_are_about_one_shape():
    def labelled(label, mask):
        value = {"rle": encode_mask(mask), "brushlabels": [label]}
        return SHAPE | {"type": "brushlabels", "value": value}

    schema = parse_label_config(
        '<View><Image name="image_0" value="$i"/><BrushLabels name="mask_0" toName="image_0">'
        '<Label value="leg"/><Label value="wood"/></BrushLabels></View>'
    )
    both = drawing_of(labelled("leg", MASK), labelled("wood", MASK), schema=schema)
    assert [region.labels for region in both.regions] == [("leg", "wood")]
    assert both.unread == ()
    lost = drawing_of(labelled("leg", MASK), labelled("wood", ~MASK), schema=schema)
    assert [region.labels for region in lost.regions] == [("leg",)]
    assert [one.label for one in lost.unread] == ["wood"]


def test_an_ellipse_that_only_asks_leaves_prompts():
    schema = parse_label_config(
        '<View><Image name="image_0" value="$i"/><BrushLabels name="mask_0" toName="image_0">'
        '<Label value="leg"/></BrushLabels>'
        '<Ellipse name="shape_0" toName="image_0" smartOnly="true"/></View>'
    )
    assert drawing_of(drawn("ellipse", SHAPES["ellipse"]), schema=schema) == drawing_of()
