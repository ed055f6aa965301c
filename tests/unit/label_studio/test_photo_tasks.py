"""Tasks that an import makes are read as the same groups."""

from __future__ import annotations

import pytest

from backend.errors import SettingsError
from backend.label_studio.group_config import text_config
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.photo_tasks import most_images, task_of
from backend.label_studio.task import parse_task


def schema_of(*values):
    names = [f"image{n}" for n in range(len(values))]
    images = "".join(
        f'<Image name="{name}" value="{value}"/>' for name, value in zip(names, values, strict=True)
    )
    labels = f'<BrushLabels name="part" toName="{",".join(names)}"><Label value="wing"/>'
    return parse_label_config(f"<View>{images}{labels}</BrushLabels></View>")


@pytest.mark.parametrize(
    "values",
    [("$a", "$b"), ("$images[0]", "$images[1]"), ("$images[1]", "$images[0]"), ("$a", "$list[0]")],
)
def test_images_of_a_task_come_in_the_order_of_the_config(values):
    schema = schema_of(*values)
    assert most_images(schema) == 2
    task = parse_task({"id": 1, **task_of(["/1.jpg", "/2.jpg"], ["x", "y"], schema)}, schema)
    assert task.image_urls == ("/1.jpg", "/2.jpg")


def test_a_group_may_be_smaller_than_the_config():
    schema = schema_of("$images[0]", "$images[1]")
    task = parse_task({"id": 1, **task_of(["/1.jpg"], ["x"], schema)}, schema)
    assert [url for url in task.image_urls if url] == ["/1.jpg"]


@pytest.mark.parametrize("values", [("$a.b",), ("$images[1]",), ("$images", "$images[0]")])
def test_a_config_that_an_import_cannot_fill_is_refused_by_name(values):
    with pytest.raises(SettingsError, match="--project: expected a labeling config that shows"):
        most_images(schema_of(*values))


def test_a_series_says_so_and_texts_have_their_key():
    schema = parse_label_config(text_config())
    made = task_of(["/1.jpg", "/2.jpg"], ["x", "y"], schema, is_series=True, text="A chair.")
    assert made["data"] == {"text": "A chair.", "images": ["/1.jpg", "/2.jpg"], "series": True}
    assert parse_task({"id": 1, **made}, schema).is_series
    plain = task_of(["/1.jpg"], ["x"], schema)
    assert plain["data"] == {"text": "", "images": ["/1.jpg"]}, "Label Studio wants the key"
    assert not parse_task({"id": 1, **plain}, schema).is_series
