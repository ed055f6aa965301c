"""Result lists of the editor -> regions: what is a mask, what belongs to it, what is left out."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from backend.errors import InvalidRleError, RequestError
from backend.label_studio.annotation import (
    parse_annotated,
    parse_drawing,
    parse_prediction,
    parse_regions,
)
from backend.label_studio.brush import encode_mask
from backend.label_studio.label_config import parse_label_config
from backend.types import RegionOrigin
from calico_model.types import RegionKind
from tests.unit.label_studio.golden_files import config, payload

OPEN = parse_label_config(config("cosegment_open"))
MASK = np.eye(4, 6, dtype=bool)
FRAME = {"to_name": "image_0", "original_width": 6, "original_height": 4}
SHAPE = FRAME | {
    "id": "r",
    "from_name": "mask_0",
    "type": "brush",
    "value": {"format": "rle", "rle": encode_mask(MASK)},
}


def regions_of(*results, schema=OPEN):
    return parse_regions(json.dumps(results).encode(), schema)


def attribute(tag, kind, **value):
    return FRAME | {"id": "r", "from_name": tag, "type": kind, "value": value}


def test_captured_bitmask_of_the_editor_has_its_alpha_as_mask():
    schema = parse_label_config(config("bitmask_polygon_vector_repeater"))
    region = payload("human_bitmask_region")
    (found,) = regions_of(region, schema=schema)
    data = base64.b64decode(region["value"]["imageDataURL"].split(",")[1])
    alpha = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[:, :, 3]
    assert found.kind is RegionKind.UNIQUE_PART
    assert np.array_equal(found.mask, alpha >= 128)
    assert found.mask.any()


def test_captured_polygons_and_vectors_are_masks_with_the_labels_of_their_tags():
    captured = payload("prediction_bitmask_polygon_vector")
    schema = parse_label_config(config("bitmask_polygon_vector_repeater"))
    found = {region.id: region for region in regions_of(*captured["result"], schema=schema)}
    assert found.keys() == {result["id"] for result in captured["result"]}
    assert found["bm0"].label == "handle"
    assert found["po0"].kind is RegionKind.COMMON_OBJECT
    assert found["ve0"].kind is RegionKind.UNIQUE_PART
    expected = np.zeros((480, 640), bool)
    expected[140:401, 200:401] = True  # 29.17 to 83.54 % of 480, 31.25 to 62.66 % of 640
    assert np.array_equal(found["po0"].mask, expected)


@pytest.mark.parametrize("name", ["recommended_labels_brush", "recommended_brushlabels"])
def test_both_families_read_the_same(name):
    captured = payload(name)
    schema = parse_label_config(captured["label_config"])
    raw = json.dumps(captured["prediction"]["result"]).encode()
    regions, pairs = parse_annotated(raw, schema)
    assert regions[0].id == "b0"
    assert regions[0].kind is RegionKind.COMMON_OBJECT
    assert regions[0].label == "body"
    assert pairs == (("b0", "b1"), ("b1", "b2"))


def test_saved_annotation_and_export_hold_the_same_regions():
    saved = payload("annotation_saved_from_prediction_repeater")["result"]
    exported = payload("export_JSON_repeater")[0]["annotations"][0]["result"]
    schema = parse_label_config(config("c_repeater_plain"))
    first, second = regions_of(*saved, schema=schema), regions_of(*exported, schema=schema)
    assert [(r.id, r.kind, r.label) for r in first] == [(r.id, r.kind, r.label) for r in second]
    assert len(first) == 10


def test_prediction_of_the_api():
    captured = payload("recommended_labels_brush")
    value = captured["prediction"] | {"id": 7, "task": 3}
    prediction = parse_prediction(value, parse_label_config(captured["label_config"]))
    assert (prediction.id, prediction.task_id, prediction.version) == (7, 3, "gen1")
    assert prediction.score == 0.8


def test_mask_is_decoded_when_looked_at_and_once():
    broken = SHAPE | {"value": {"format": "rle", "rle": [1, 2, 3]}}
    (region,) = regions_of(broken)
    assert region.size_hw == (4, 6)
    with pytest.raises(InvalidRleError, match="at least 7 bytes"):
        region.mask  # noqa: B018
    (good,) = regions_of(SHAPE)
    assert good.mask is good.mask
    assert not good.mask.flags.writeable


def test_first_mask_of_an_id_counts():
    second = SHAPE | {"value": {"rle": encode_mask(~MASK)}}
    (region,) = regions_of(SHAPE, second)
    assert np.array_equal(region.mask, MASK)


def test_repeated_rle_of_attributes_is_not_a_region():
    rle = encode_mask(MASK)
    kind = attribute("kind_0", "labels", labels=["common_part"], rle=rle)
    text = attribute("part_0", "textarea", text=["lid"], rle=rle)
    (region,) = regions_of(SHAPE, kind, text)
    assert (region.kind, region.label) == (RegionKind.COMMON_PART, "lid")


@pytest.mark.parametrize(
    ("text", "label"), [("lid", "lid"), ([" lid "], "lid"), ([""], None), ([], None), (None, None)]
)
def test_name_of_a_region(text, label):
    (region,) = regions_of(SHAPE, attribute("part_0", "textarea", text=text))
    assert region.label == label


def test_names_as_labels():
    schema = parse_label_config(config("cosegment_labels"))
    name = attribute("part_0", "labels", labels=["seat"])
    kind = attribute("kind_0", "choices", choices=["unique_part"])
    (region,) = regions_of(SHAPE, name, kind, schema=schema)
    assert (region.kind, region.label) == (RegionKind.UNIQUE_PART, "seat")


@pytest.mark.parametrize(
    "change",
    [
        {"to_name": "image_9"},
        {"to_name": "other"},
        {"type": "keypoint"},
        {"type": 5},
        {"original_width": None},
        {"original_height": 0},
        {"value": None},
        {"value": {}},
        {"value": {"rle": None}},
        {"value": "text"},
        {"id": {}},
    ],
)
def test_result_that_is_no_mask_of_the_config_is_left_out(change):
    assert regions_of(SHAPE | change, 5, None, "text") == ()


def test_unknown_origin_counts_as_manual():
    (region,) = regions_of(SHAPE | {"origin": "somewhere"})
    assert region.origin is RegionOrigin.MANUAL


def test_relation_to_a_missing_region_is_left_out():
    relation = {"type": "relation", "from_id": "r", "to_id": "gone", "direction": "bi"}
    _, pairs = parse_annotated(json.dumps([SHAPE, relation]).encode(), OPEN)
    assert pairs == ()


def test_regions_of_one_part_are_linked_without_arrows_until_one_is_renamed():
    def region(name, image, text):
        shape = {
            "id": name,
            "from_name": f"mask_{image}",
            "to_name": f"image_{image}",
            "type": "brush",
            "original_width": 4,
            "original_height": 4,
            "value": {"format": "rle", "rle": encode_mask(np.ones((4, 4), bool))},
            "meta": {"same_part": "common_part:leg", "text": ["a remark"]},
        }
        label = {"from_name": f"part_{image}", "type": "textarea", "value": {"text": [text]}}
        return [shape, {**shape, **label}]

    def links(*texts):
        results = [r for k, text in enumerate(texts) for r in region(f"r{k}", k, text)]
        drawing = parse_drawing(
            json.dumps(results).encode(), parse_label_config(config("cosegment_open"))
        )
        assert drawing.arrows == ()
        return drawing.same_part

    assert links("leg", "leg", "leg") == (("r0", "r1"), ("r1", "r2"))
    assert links("leg", "arm", "leg") == (("r0", "r2"),)


@pytest.mark.parametrize("meta", [None, {}, {"same_part": 3}, {"text": ["x"]}, "x", [1]])
def test_another_meta_says_nothing(meta):
    result = {"id": "a", "from_name": "mask_0", "to_name": "image_0", "type": "brush"}
    results = json.dumps([result | {"meta": meta}]).encode()
    assert parse_drawing(results, parse_label_config(config("cosegment_open"))).same_part == ()


def test_result_that_is_no_list_is_refused():
    with pytest.raises(RequestError, match="array"):
        parse_regions(b'{"id": 1}', OPEN)
    assert parse_regions(b"null", OPEN) == ()


def data_url(pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.com/mask.png", "expected data:image/png"),
        ("data:image/png;base64,!!!", "PNG that can be decoded"),
        ("data:image/png;base64,iVBORw0KGgo=", "PNG that can be decoded"),
        (data_url(np.zeros((4, 6, 3), np.uint8)), "with alpha"),
        (data_url(np.zeros((6, 4, 4), np.uint8)), "expected 6 x 4 with alpha, got 4 x 6"),
    ],
)
def test_bad_bitmask_is_refused(url, message):
    (region,) = regions_of(SHAPE | {"type": "bitmask", "value": {"imageDataURL": url}})
    with pytest.raises(InvalidRleError, match=message):
        region.mask  # noqa: B018
