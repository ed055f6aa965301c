"""Written predictions keep every rule of the editor, in every layout, and read back unchanged."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.label_schema import ImageLayout, LabelValue
from backend.label_studio.annotation import parse_annotated, parse_drawing
from backend.label_studio.brush import encode_mask, encode_outlined
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import match_label
from backend.label_studio.response import empty_item, not_yet_item, predict_answer, predict_item
from backend.label_studio.result import Omission, RenderedPrediction, render_prediction
from calico_model.types import GroupPrediction, PartMask, RegionKind
from tests.unit.label_studio.golden_files import CONFIGS, config

SIZES = ((20, 30), (12, 16), (9, 7), (5, 5))
OPEN = parse_label_config(config("cosegment_open"))
LABELS = parse_label_config(config("cosegment_labels"))
SHAPES = {"brush", "brushlabels", "bitmask", "bitmasklabels"}


def part(index=0, label="seat", kind=RegionKind.COMMON_PART, *, part_id=None, score=0.5, fill=1.0):
    mask = np.random.default_rng(index).random(SIZES[index]) < fill
    return PartMask(index, kind, label, mask, part_id=part_id, score=score)


def prediction(*parts):
    return GroupPrediction(parts, "calico-tiny-1")


def render(schema, *parts, **options):
    options.setdefault("sizes_hw", SIZES)
    return render_prediction(prediction(*parts), schema, **options)


def results(rendered):
    return json.loads(rendered.result)


def sample(image_count):
    parts = [
        part(i, "chair", RegionKind.COMMON_OBJECT, part_id="0", score=0.9, fill=0.8)
        for i in range(image_count)
    ]
    parts += [part(i, "leg", part_id="1", fill=0.4) for i in range(image_count)]
    parts += [part(0, "Seats", RegionKind.UNIQUE_PART, score=1.0, fill=0.2)]
    return parts


def check_editor_rules(items, schema, sizes):
    """label_studio 1.23 loses regions, or the whole page, when one of these does not hold."""
    shapes, relations_begun = {}, False
    for item in items:
        if item["type"] == "relation":
            relations_begun = True
            assert {item["from_id"], item["to_id"]} <= shapes.keys()
            assert item["direction"] == "bi"
            continue
        assert not relations_begun, "relations come last"
        if item["type"] in SHAPES:
            assert item["id"] not in shapes, "a second mask of an id is lost"
            assert math.isfinite(item["score"])
            shapes[item["id"]] = item
        assert item["id"] in shapes, "shape first"
        check_frame(item, shapes[item["id"]], schema, sizes)


def check_frame(item, shape, schema, sizes):
    index = item["item_index"] if schema.layout is ImageLayout.VALUE_LIST else None
    if index is None:
        assert "item_index" not in item
        index = next(i for i in range(8) if schema.slot(i).image == item["to_name"])
    slot = schema.slot(index)
    assert item["to_name"] == slot.image == shape["to_name"]
    assert (item["original_height"], item["original_width"]) == sizes[index]
    assert item["image_rotation"] == 0
    assert item["from_name"] in (slot.mask, slot.kind, slot.name, slot.colour)
    if item["type"] == "textarea":
        assert isinstance(item["value"]["text"], list)
    kinds = set(schema.kind.values.values())
    names = {value.value for value in schema.name.values}
    for texts in (v for k, v in item["value"].items() if k.endswith("labels") or k == "choices"):
        assert set(texts) <= kinds | names, "only labels the config offers"


@pytest.mark.parametrize("image_count", [1, 2, 4])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_layout_keeps_the_rules_of_the_editor(path, image_count):
    schema = parse_label_config(path.read_text())
    image_count = min(image_count, 2 if path.stem == "a_two_images" else 4)
    sizes = SIZES[:image_count]
    rendered = render(schema, *sample(image_count), sizes_hw=sizes)
    check_editor_rules(results(rendered), schema, sizes)
    assert len(rendered.region_ids) == 2 * image_count + 1
    assert not rendered.omitted


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_written_is_read_back(path):
    schema = parse_label_config(path.read_text())
    parts = sample(2)
    rendered = render(schema, *parts)
    regions, pairs = parse_annotated(rendered.result, schema)
    assert tuple(region.id for region in regions) == rendered.region_ids
    for region, written in zip(regions, parts, strict=True):
        assert region.image_index == written.image_index
        assert region.kind is written.kind
        expected = match_label(written.label, schema.name.values) or written.label
        assert region.label == expected
        assert np.array_equal(region.mask, written.mask)
    ids = rendered.region_ids
    linked = ((ids[0], ids[1]), (ids[2], ids[3]))
    assert pairs == linked, "with and without <Relations>"
    arrows = parse_drawing(render(schema, *parts, with_relations=True).result, schema)
    assert arrows.same_part == linked
    assert arrows.arrows == (() if schema.relation is None else linked)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["seat", "leg", "chair", "", "spaceship", "\u0000", "椅子", "Legs "]),
            st.sampled_from(list(RegionKind)),
            st.sampled_from([None, "a", "b"]),
            st.floats(0, 1),
            st.sampled_from([0.0, 0.5, 1.0]),
        ),
        max_size=8,
    ),
    st.sampled_from(["cosegment_open", "cosegment_labels", "b_valuelist", "a_four_images"]),
)
def test_no_prediction_breaks_the_editor(drawn, name):
    schema = parse_label_config(config(name))
    parts = [
        part(index, label, kind, part_id=part_id, score=score, fill=fill)
        for index, label, kind, part_id, score, fill in drawn
    ]
    rendered = render(schema, *parts)
    check_editor_rules(results(rendered), schema, SIZES)
    assert len(rendered.region_ids) + sum(rendered.omitted.values()) == len(parts)


def test_shape_then_colour_then_labels_then_text():
    items = results(render(OPEN, part(1, "handle")))
    assert [(item["type"], item["from_name"]) for item in items] == [
        ("brush", "mask_1"),
        ("taxonomy", "colour_1"),
        ("labels", "kind_1"),
        ("textarea", "part_1"),
    ]
    assert items[2]["value"] == {"labels": ["common_part"]}
    assert items[3]["value"] == {"text": ["handle"]}


def test_names_as_labels_come_before_the_choice():
    items = results(render(LABELS, part(0, "cushions", RegionKind.UNIQUE_PART)))
    assert [(item["type"], item["from_name"]) for item in items] == [
        ("brush", "mask_0"),
        ("labels", "part_0"),
        ("choices", "kind_0"),
    ]
    assert items[1]["value"] == {"labels": ["seat"]}


def test_unknown_label_of_a_closed_set_is_left_out_and_counted():
    rendered = render(LABELS, part(0, "propeller"), part(0, "leg"))
    assert rendered.omitted == {Omission.UNKNOWN_LABEL: 1}
    assert len(rendered.region_ids) == 1


def test_kind_that_the_labels_do_not_offer_is_left_out_and_counted():
    schema = parse_label_config(
        '<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i">'
        '<Label value="common_part"/></BrushLabels></View>'
    )
    rendered = render(schema, part(kind=RegionKind.UNIQUE_PART), part())
    assert rendered.omitted == {Omission.KIND_NOT_OFFERED: 1}


def test_a_kind_that_an_annotator_pointed_at_is_shown_without_a_label():
    schema = parse_label_config(
        '<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i">'
        '<Label value="common_part"/></BrushLabels></View>'
    )
    rendered = render(schema, part(kind=RegionKind.UNIQUE_PART), with_other_kinds=True)
    (shape,) = results(rendered)
    assert shape["value"]["brushlabels"] == []
    assert rendered.omitted == {}


def test_unknown_name_beside_kinds_leaves_the_name_out():
    schema = parse_label_config(
        '<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i">'
        '<Label value="common_part"/></BrushLabels><Choices name="n" toName="i" perRegion="true">'
        '<Choice value="lid"/></Choices></View>'
    )
    assert len(results(render(schema, part(0, "lid")))) == 2
    assert len(results(render(schema, part(0, "propeller")))) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (part(0, fill=0.0), Omission.EMPTY_MASK),
        (PartMask(0, RegionKind.COMMON_PART, "x", np.ones((30, 20), bool)), Omission.WRONG_SIZE),
        (PartMask(7, RegionKind.COMMON_PART, "x", np.ones((5, 5), bool)), Omission.WRONG_SIZE),
    ],
)
def test_mask_the_editor_cannot_show_is_left_out_and_counted(bad, reason):
    rendered = render(OPEN, bad)
    assert rendered.omitted == {reason: 1}
    assert rendered.result == b"[]"


def test_labels_of_the_task_are_the_closed_set():
    schema = parse_label_config(
        '<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i" value="$parts"/></View>'
    )
    rendered = render(schema, part(0, "handles"), part(0, "lid"), labels=(LabelValue("Handle"),))
    assert results(rendered)[0]["value"]["brushlabels"] == ["Handle"]
    assert rendered.omitted == {Omission.UNKNOWN_LABEL: 1}


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("wheel", ("Wheels", "wheel"), "wheel"),
        ("wheels", ("Wheels", "wheel"), "Wheels"),
        ("🙂", ("🙂", "leg"), "🙂"),
        ("", ("leg",), None),
        ("leg", (), None),
    ],
)
def test_label_sets_that_are_not_clean(text, labels, expected):
    assert match_label(text, tuple(LabelValue(label) for label in labels)) == expected


def test_ids_are_stable_and_differ():
    twice = (part(0), part(0), part(1))
    first, again = render(OPEN, *twice), render(OPEN, *twice)
    assert first.region_ids == again.region_ids
    assert len(set(first.region_ids)) == 3
    assert not set(first.region_ids) & set(render(OPEN, *twice, seed="click").region_ids)


def test_an_object_comes_first_and_lies_under_its_parts_as_an_outline():
    leg, chair = part(0, "leg"), part(0, "chair", RegionKind.COMMON_OBJECT)
    shapes = [item for item in results(render(OPEN, leg, chair)) if item["type"] == "brush"]
    assert [shape["value"]["rle"] for shape in shapes] == [
        encode_outlined(chair.mask),
        encode_mask(leg.mask),
    ]


def test_the_colour_stands_before_the_label_that_would_colour_the_region_by_its_kind():
    written = results(render(OPEN, *sample(2)))
    first = written[0]["id"]
    assert [item["type"] for item in written if item["id"] == first] == [
        "brush",
        "labels",
        "textarea",
    ]
    leg = next(item["id"] for item in written if item["type"] == "taxonomy")
    types = [item["type"] for item in written if item["id"] == leg]
    assert types == ["brush", "taxonomy", "labels", "textarea"]
    regions, _ = parse_annotated(json.dumps(written).encode(), OPEN)
    colours = {region.label: region.colour for region in regions}
    assert colours["chair"] is None
    assert {colours["leg"], colours["Seats"]} <= set(OPEN.colours)
    assert len({(region.label, region.colour) for region in regions}) == 3


def test_there_are_no_arrows_unless_they_are_asked_for():
    rendered = render(OPEN, *sample(3))
    assert not [item for item in results(rendered) if item["type"] == "relation"]


def item(rendered: RenderedPrediction) -> bytes:
    return predict_item(rendered.result, score=rendered.score, version=rendered.version)


def test_score_is_the_mean_of_what_is_shown():
    rendered = render(OPEN, part(score=0.5), part(score=1.0), part(score=0.0, fill=0.0))
    assert rendered.score == 0.75
    assert json.loads(item(rendered)) == {
        "result": results(rendered),
        "score": 0.75,
        "model_version": "calico-tiny-1",
    }


def test_answer_has_one_item_per_task():
    items = [item(render(OPEN, part())), empty_item("v"), not_yet_item("v")]
    answer = json.loads(predict_answer(items))
    assert answer["results"][1:] == [
        {"result": [], "score": 0.0, "model_version": "v"},
        {"model_version": "v"},
    ]
    assert json.loads(predict_answer([])) == {"results": []}
