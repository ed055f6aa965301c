"""Every layout of the labeling config, and what a config without the needed tags is told."""

from __future__ import annotations

import pytest

from backend.errors import InvalidLabelConfigError
from backend.label_schema import ControlType, ImageLayout, LabelValue, MaskFamily
from backend.label_studio.label_config import MAX_CONFIG_BYTES, parse_label_config
from backend.label_studio.label_set import closed_labels
from calico_model.types import RegionKind
from tests.unit.label_studio.golden_files import CONFIGS, config

KIND_LABELS = "".join(f'<Label value="{kind.value}"/>' for kind in RegionKind)


def single(controls: str, image: str = '<Image name="i" value="$image"/>') -> str:
    return f"<View>{image}{controls}</View>"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_captured_and_offered_configs_say_every_kind(path):
    schema = parse_label_config(path.read_text())
    assert schema.kind is not None
    assert set(schema.kind.values) == set(RegionKind)
    assert schema.name is not None


@pytest.mark.parametrize(
    ("name", "layout", "fields", "family"),
    [
        (
            "recommended_repeater_labels_brush",
            ImageLayout.REPEATER,
            ("images",),
            MaskFamily.BRUSH,
        ),
        ("b_valuelist", ImageLayout.VALUE_LIST, ("images",), MaskFamily.BRUSH_LABELS),
        ("a_two_images", ImageLayout.IMAGE_TAGS, ("image_0", "image_1"), MaskFamily.BRUSH_LABELS),
        (
            "bitmask_polygon_vector_repeater",
            ImageLayout.REPEATER,
            ("images",),
            MaskFamily.BITMASK_LABELS,
        ),
    ],
)
def test_layout_and_family(name, layout, fields, family):
    schema = parse_label_config(config(name))
    assert (schema.layout, schema.image_fields, schema.mask_family) == (layout, fields, family)


def test_repeater_names_follow_the_image():
    slot = parse_label_config(config("cosegment_open")).slot(3)
    assert (slot.image, slot.mask, slot.kind, slot.name) == (
        "image_3",
        "mask_3",
        "kind_3",
        "part_3",
    )
    assert slot.smart == ("point_3", "box_3")


def test_any_index_flag_and_a_key_inside_the_items():
    schema = parse_label_config(
        '<View><Repeater on="$views" indexFlag="[[n]]">'
        '<Image name="i[[n]]" value="$views[[[n]]].url"/>'
        f'<BrushLabels name="m[[n]]" toName="i[[n]]">{KIND_LABELS}</BrushLabels>'
        "</Repeater></View>"
    )
    assert (schema.image_fields, schema.item_key, schema.slot(2).mask) == (("views",), "url", "m2")


def test_image_tags_have_their_own_names():
    schema = parse_label_config(config("a_four_images"))
    assert [schema.slot(i).mask for i in range(4)] == ["mask_0", "mask_1", "mask_2", "mask_3"]


def test_one_tag_may_serve_several_images():
    schema = parse_label_config(
        '<View><Image name="a" value="$a"/><Image name="b" value="$b"/>'
        f'<BrushLabels name="m" toName="a,b">{KIND_LABELS}</BrushLabels></View>'
    )
    assert [schema.slot(i).mask for i in range(2)] == ["m", "m"]


def test_names_as_labels_with_kind_as_choice():
    schema = parse_label_config(config("cosegment_labels"))
    assert schema.name.type is ControlType.LABELS
    assert schema.kind.type is ControlType.CHOICES
    assert "cushion" in next(v for v in schema.name.values if v.value == "seat").aliases


def test_short_choice_says_two_kinds():
    labels = '<BrushLabels name="m" toName="i"><Label value="handle"/></BrushLabels>'
    choices = (
        '<Choices name="c" toName="i" perRegion="true">'
        '<Choice value="common"/><Choice value="unique"/></Choices>'
    )
    schema = parse_label_config(single(labels + choices))
    assert schema.kind.values[RegionKind.COMMON_OBJECT] == "common"
    assert schema.kind.values[RegionKind.COMMON_PART] == "common"
    assert schema.kind.values[RegionKind.UNIQUE_PART] == "unique"


def test_choice_of_the_whole_task_is_not_a_kind():
    labels = '<BrushLabels name="m" toName="i"><Label value="handle"/></BrushLabels>'
    choices = '<Choices name="c" toName="i"><Choice value="common_part"/></Choices>'
    assert parse_label_config(single(labels + choices)).kind is None


def test_alias_is_what_is_stored():
    labels = '<Label value="Handle (grip)" alias="handle" predicted_values="grip, lug"/>'
    schema = parse_label_config(single(f'<BrushLabels name="m" toName="i">{labels}</BrushLabels>'))
    (value,) = schema.name.values
    assert (value.value, value.aliases) == ("handle", ("Handle (grip)", "grip", "lug"))


def test_kind_labels_may_be_spelled_freely():
    labels = '<Label value="Common parts"/><Label value="UNIQUE-PART"/>'
    schema = parse_label_config(single(f'<BrushLabels name="m" toName="i">{labels}</BrushLabels>'))
    assert schema.kind.values == {
        RegionKind.COMMON_PART: "Common parts",
        RegionKind.UNIQUE_PART: "UNIQUE-PART",
    }


def test_labels_may_come_with_the_task():
    schema = parse_label_config(single('<BrushLabels name="m" toName="i" value="$parts"/>'))
    assert schema.name.task_field == "parts"


def test_labels_are_those_that_every_image_offers():
    def controls(index, labels):
        tags = "".join(f'<Label value="{label}"/>' for label in labels)
        return (
            f'<Image name="i{index}" value="$i{index}"/>'
            f'<BrushLabels name="m{index}" toName="i{index}">{tags}</BrushLabels>'
        )

    schema = parse_label_config(
        f"<View>{controls(0, ['leg', 'seat'])}{controls(1, ['seat', 'arm'])}</View>"
    )
    assert [value.value for value in schema.name.values] == ["seat"]


def test_notes_go_where_nobody_can_type():
    tags = (
        '<TextArea name="comment" toName="i"/><TextArea name="say" toName="i" maxSubmissions="0"/>'
        '<TextArea name="per" toName="i" maxSubmissions="0" perRegion="true"/>'
    )
    slot = parse_label_config(single(masks() + tags)).slots[0]
    assert (slot.note, slot.ask) == ("say", None)
    assert parse_label_config(config("cosegment_labels")).slot(2).note == "note_2"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ('name="colour_1" perRegion="true"', ("1", "2")),
        ('name="material" perRegion="true"', ()),  # it may mean something
        ('name="colour_1"', ()),
    ],
)
def test_colours_are_what_a_tag_of_that_name_offers(tag, expected):
    choices = '<Choice value="1" color="#f00"/><Choice value="2" color="#0f0"/>'
    schema = parse_label_config(
        single(masks() + f'<Taxonomy toName="i" {tag}>{choices}</Taxonomy>')
    )
    assert schema.colours == expected
    assert schema.slots[0].colour == ("colour_1" if expected else None)
    assert parse_label_config(config("cosegment_open")).slot(3).colour == "colour_3"


@pytest.mark.parametrize(
    ("relations", "expected"),
    [
        ("", None),
        ("<Relations/>", ""),
        ('<Relations><Relation value="next"/></Relations>', "next"),
        (
            '<Relations><Relation value="next"/><Relation value="same_part"/></Relations>',
            "same_part",
        ),
    ],
)
def test_relation(relations, expected):
    masks = f'<BrushLabels name="m" toName="i">{KIND_LABELS}</BrushLabels>'
    assert parse_label_config(single(masks + relations)).relation == expected


def test_the_same_text_is_parsed_once():
    assert parse_label_config(config("b_valuelist")) is parse_label_config(config("b_valuelist"))


def masks(name: str = "m", to: str = "i") -> str:
    return f'<BrushLabels name="{name}" toName="{to}">{KIND_LABELS}</BrushLabels>'


@pytest.mark.parametrize(
    "inside",
    [
        "<View><Label value='leg'/></View><View><View><Label value='seat'/></View></View>",
        "<Header value='parts'/><View style='x'><Label value='leg'/><Label value='seat'/></View>",
    ],
)
@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "Labels"])
def test_labels_may_be_arranged_in_views(tag, inside):
    brush = '<Brush name="b" toName="i"/>' if tag == "Labels" else ""
    schema = parse_label_config(single(f'{brush}<{tag} name="m" toName="i">{inside}</{tag}>'))
    assert [label.value for label in schema.name.values] == ["leg", "seat"]


def test_choices_may_be_arranged_in_views():
    labels = '<BrushLabels name="m" toName="i"><Label value="handle"/></BrushLabels>'
    choices = (
        '<Choices name="c" toName="i" perRegion="true"><View>'
        '<Choice value="common_part"/></View><Choice value="unique_part"/></Choices>'
    )
    assert len(parse_label_config(single(labels + choices)).kind.values) == 2


@pytest.mark.parametrize(
    "reference",
    [
        '<Image name="ref" value="$reference"/>',
        '<Image name="ref" value="https://images.example.com/legend.png"/>',
        '<Image name="ref" value="$reference"/>'
        '<RectangleLabels name="box" toName="ref"><Label value="sign"/></RectangleLabels>',
        '<Image name="ref" valueList="$references"/>',
    ],
)
def test_an_image_that_no_mask_is_drawn_on_is_only_looked_at(reference):
    image = '<Image name="i" value="$image"/>'
    for images in (image + reference, reference + image):
        schema = parse_label_config(f"<View>{images}{masks()}</View>")
        assert (schema.layout, schema.image_fields) == (ImageLayout.IMAGE_TAGS, ("image",))
        assert dict(schema.image_indices) == {"i": 0}


def test_a_reference_image_may_stand_beside_and_in_a_repeater():
    repeated = (
        '<Repeater on="$images"><Image name="i{{idx}}" value="$images[{{idx}}].url"/>'
        '<Image name="r{{idx}}" value="$images[{{idx}}].legend"/>'
        + masks("m{{idx}}", "i{{idx}}")
        + "</Repeater>"
    )
    schema = parse_label_config(f'<View><Image name="ref" value="$r"/>{repeated}</View>')
    assert (schema.layout, schema.item_key, schema.slot(1).mask) == (
        ImageLayout.REPEATER,
        "url",
        "m1",
    )


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("/data/upload/1/$f1", "/data/upload/1/$f1"),
        ("$images[0]", "images[0]"),
        ("$pair.left", "pair.left"),
        ("https://images.example.com/$folder/$name.png", None),
    ],
)
def test_an_image_may_refer_to_any_place_of_the_data(value, field):
    schema = parse_label_config(single(masks(), f'<Image name="i" value="{value}"/>'))
    assert schema.image_fields == (field or value,)


def test_static_labels_may_stand_beside_dynamic_ones():
    labels = (
        '<BrushLabels name="m" toName="i" value="$meta.parts"><Label value="other"/></BrushLabels>'
    )
    schema = parse_label_config(single(labels))
    assert schema.name.task_field == "meta.parts"
    leg, other = LabelValue("leg"), LabelValue("other")
    assert closed_labels(schema, (leg, other)) == (other, leg)
    assert closed_labels(schema) == (other,)


def test_one_tag_may_name_several_images_with_spaces_between():
    images = '<Image name="a" value="$a"/><Image name="b" value="$b"/>'
    schema = parse_label_config(f"<View>{images}{masks(to='a, b')}</View>")
    assert schema.image_fields == ("a", "b")


BRUSH = '<Brush name="m" toName="i"/>'
REPEATED = '<Repeater on="$images"><Image name="{name}" value="{value}"/></Repeater>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "well-formed XML"),
        ("<View>", "well-formed XML"),
        ("<View>\x00</View>", "well-formed XML"),
        ("<View/>", "expected an <Image> tag"),
        ('<View><Text name="t" value="$t"/></View>', "expected an <Image> tag"),
        (single(""), "expected a <BrushLabels>"),
        (single(BRUSH), "expected a <Labels>"),
        (single(BRUSH + '<Labels name="l" toName="other"><Label value="x"/></Labels>'), "<Labels>"),
        (single(BRUSH + '<Labels name="l" toName="i"/>'), "<Label value="),
        (single('<Brush toName="i"/>'), "attribute name on <brush>"),
        (single("", '<Image value="$image"/>'), "attribute name on <image>"),
        (single("", '<Image name="i"/>'), "attribute value on <image>"),
        (single("", '<Image name="i" value="fixed.png"/>'), r'value="\$key"'),
        (single("", '<Image name="i" value="$a"/>' * 9), "at most 8 <Image> tags, got 9"),
        (single("", REPEATED.format(name="i", value="$images[{{idx}}]")), r'name="image_{{idx}}"'),
        (single("", REPEATED.format(name="i{{idx}}", value="$images")), r"\$images\[{{idx}}\]"),
        (single("", '<Image name="i" valueList="$a"/><Image name="j" value="$b"/>'), "one <Image>"),
        (single(masks(), '<Image name="i" value="$"/>'), r'value="\$key"'),
        (
            '<View><Image name="a" value="$a"/><Repeater on="$images">'
            f'<Image name="i{{{{idx}}}}" value="$images[{{{{idx}}}}]"/>{masks("m", "i{{idx}}")}'
            f"</Repeater>{masks('n', 'a')}</View>",
            "images of one <Repeater>",
        ),
        (f"<View>{' ' * MAX_CONFIG_BYTES}</View>", f"at most {MAX_CONFIG_BYTES} bytes"),
        ('<!DOCTYPE v [<!ENTITY a "b">]><View>&a;</View>', "without DTD"),
        ('<!DOCTYPE v SYSTEM "file:///etc/passwd"><View/>', "without DTD"),
    ],
)
def test_unusable_config_names_what_is_needed(xml, message):
    with pytest.raises(InvalidLabelConfigError, match=message) as caught:
        parse_label_config(xml)
    assert caught.value.field == "label_config"


def test_a_blank_label_is_none():
    blank = '<Labels name="l" toName="i"><Label value=" "/><Label value="lid"/></Labels>'
    schema = parse_label_config(single(blank + '<Brush name="m" toName="i"/>'))
    assert closed_labels(schema) == (LabelValue("lid"),)


@pytest.mark.parametrize(
    ("attributes", "is_caption"),
    [
        ('name="caption_{{idx}}"', True),
        ('name="Caption_{{idx}}" editable="true"', True),
        ('name="words_{{idx}}"', False),
        ('name="caption_{{idx}}" perRegion="true"', False),
        ('name="caption_{{idx}}" smart="true"', False),
        ('name="caption_{{idx}}" maxSubmissions="0"', False),
    ],
)
def test_a_text_area_named_so_holds_the_caption(attributes, is_caption):
    area = f'<TextArea {attributes} toName="image_{{{{idx}}}}"/>'
    xml = config("cosegment_open").replace("<Brush ", f"{area}<Brush ", 1)
    assert (parse_label_config(xml).slot(0).caption is not None) == is_caption
    assert parse_label_config(config("cosegment_open")).slot(0).caption is None
