"""Requests of /predict and /setup: captured ones, and every way a task can be wrong."""

from __future__ import annotations

import json

import pytest

from backend.errors import InvalidLabelConfigError, InvalidTaskError, RequestError
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import closed_labels
from backend.label_studio.request import MAX_TASKS, parse_predict_request, parse_setup_request
from backend.label_studio.task import parse_task
from calico_model.types import RegionKind
from tests.unit.label_studio.golden_files import body, config, names, payload

OPEN = config("cosegment_open")
SCHEMA = parse_label_config(OPEN)


def request(*tasks, label_config=OPEN, **more) -> bytes:
    return json.dumps({"tasks": tasks, "label_config": label_config, **more}).encode()


def only_task(data, label_config=OPEN):
    return parse_predict_request(request({"id": 1, "data": data}, label_config=label_config)).tasks[
        0
    ]


@pytest.mark.parametrize("name", names("predict_"))
def test_captured_request_has_tasks_with_images(name):
    sent = payload(name)["body"]
    parsed = parse_predict_request(body(name))
    assert [task.id for task in parsed.tasks] == [task["id"] for task in sent["tasks"]]
    assert parsed.project_id == int(sent["project"].split(".")[0])
    for task, raw in zip(parsed.tasks, sent["tasks"], strict=True):
        data = raw["data"]
        expected = data.get("images") or [data["image_0"], data["image_1"]]
        assert task.problem is None
        assert list(task.image_urls) == expected


@pytest.mark.parametrize("name", names("predict_interactive_ui"))
def test_captured_click_has_prompts_in_pixels(name):
    parsed = parse_predict_request(body(name))
    assert parsed.is_interactive
    assert parsed.prompts
    for prompt in parsed.prompts:
        assert prompt.image_index == 0
        assert prompt.kind in (RegionKind.COMMON_PART, RegionKind.UNIQUE_PART)
        assert prompt.is_click == ("rectangle" not in name)
        assert 0 < prompt.box[0] <= prompt.box[2] < 640
        assert 0 < prompt.box[1] <= prompt.box[3] < 480


def test_alt_click_excludes():
    parsed = parse_predict_request(body("predict_interactive_ui_keypoints_valuelist"))
    assert [prompt.is_positive for prompt in parsed.prompts] == [True, False]


@pytest.mark.parametrize("context", [None, "absent"])
def test_batch_is_not_interactive(context):
    params = {} if context == "absent" else {"context": None}
    assert not parse_predict_request(request(params=params)).is_interactive


def test_empty_context_is_interactive():
    parsed = parse_predict_request(request(params={"context": {}}))
    assert parsed.is_interactive
    assert parsed.prompts == ()


def test_earlier_masks_of_any_shape_are_skipped():
    task = {
        "id": 4,
        "data": {"images": ["/data/upload/1/a.png"]},
        "annotations": "not even a list",
        "predictions": [{"result": [{"value": {"rle": [1] * 1000}}]}],
        "drafts": {"1": None},
    }
    assert parse_predict_request(request(task)).tasks[0].problem is None


def test_image_fields_say_where_each_url_stood():
    request_body = request(
        {"id": 1, "data": {"images": ["a.png"]}}, {"id": 2, "data": {"images": ["b.png", "c.png"]}}
    )
    task = parse_predict_request(request_body).tasks[1]
    assert task.image_fields == ("tasks[1].data.images[0]", "tasks[1].data.images[1]")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"images": []}, "tasks[0].data.images: expected a list of 1 to 8 image URLs, got 0"),
        (
            {"images": ["a"] * 9},
            "tasks[0].data.images: expected a list of 1 to 8 image URLs, got 9",
        ),
        ({}, "tasks[0].data.images: expected a list of 1 to 8 image URLs, got nothing"),
        ({"images": "a.png"}, "tasks[0].data.images: expected a list of 1 to 8 image URLs, got a"),
        ({"images": {"0": "a"}}, "got an object"),
        ({"images": ["a", None]}, "tasks[0].data.images[1]: expected an image URL, got nothing"),
        ({"images": ["a", 7]}, "tasks[0].data.images[1]: expected an image URL, got a number"),
        ({"images": [["a"]]}, "tasks[0].data.images[0]: expected an image URL, got a list"),
        ({"images": [" "]}, "tasks[0].data.images[0]: expected an image URL, got an empty text"),
        ({"images": ["a" * 9000]}, "at most 8192 characters, got 9000"),
        ([], "tasks[0].data: expected an object"),
        ("text", "tasks[0].data: expected an object"),
        (None, "tasks[0].data: expected an object"),
    ],
)
def test_task_that_cannot_be_looked_at_carries_its_problem(data, problem):
    task = only_task(data)
    assert problem in task.problem
    assert task.image_urls == ()


def test_bad_task_leaves_the_others_alone():
    tasks = ({"id": 1, "data": {"images": []}}, {"id": 2, "data": {"images": ["a.png"]}})
    first, second = parse_predict_request(request(*tasks)).tasks
    assert first.problem is not None
    assert second.problem is None


def test_unused_image_tags_at_the_end_may_be_blank():
    data = {"image_0": "a.png", "image_1": "b.png", "image_2": "", "image_3": ""}
    assert only_task(data, config("a_four_images")).image_urls == ("a.png", "b.png")


def test_blank_image_tag_between_others_is_a_problem():
    data = {"image_0": "a.png", "image_1": "", "image_2": "c.png", "image_3": ""}
    task = only_task(data, config("a_four_images"))
    assert "tasks[0].data.image_1: expected an image URL, got an empty text" in task.problem


def test_labels_of_the_task():
    xml = OPEN.replace("</Labels>", "").replace(
        '<Labels name="kind_{{idx}}" toName="image_{{idx}}" showInline="true">',
        '<Labels name="kind_{{idx}}" toName="image_{{idx}}" value="$parts"/>',
    )
    for kind in RegionKind:
        xml = "\n".join(line for line in xml.splitlines() if kind.value not in line)
    parts = [{"value": "Handle", "alias": "handle", "background": "#fff"}, "lid", {"value": None}]
    task = only_task({"images": ["a.png"], "parts": parts}, xml)
    assert [(label.value, label.aliases) for label in task.labels] == [
        ("handle", ("Handle",)),
        ("lid", ()),
    ]
    broken = only_task({"images": ["a.png"], "parts": [{"value": 3}]}, xml)
    assert "tasks[0].data.parts[0]: expected a label" in broken.problem


@pytest.mark.parametrize(
    ("sent", "error", "field"),
    [
        (b"", RequestError, "body"),
        (b"{", RequestError, "body"),
        (b"\xff\xfe", RequestError, "body"),
        (b"[" * 100_000, RequestError, "body"),
        (b"[]", RequestError, "body"),
        (b"{}", RequestError, "body"),
        (b'{"tasks": 5}', RequestError, "tasks"),
        (b'{"tasks": [{"id": 1}, 7]}', RequestError, "tasks[1]"),
        (b'{"tasks": [{"id": "x"}]}', RequestError, "tasks[0].id"),
        (b'{"tasks": [{"id": -1}]}', RequestError, "tasks[0].id"),
        (b'{"tasks": [{"id": 99999999999999999999}]}', RequestError, "tasks[0].id"),
        (b'{"tasks": [], "project": {}}', RequestError, "project"),
        (b'{"tasks": [], "label_config": 3}', RequestError, "label_config"),
        (b'{"tasks": []}', InvalidLabelConfigError, "label_config"),
        (request(project="one.two"), RequestError, "project"),
        (request(params={"context": {"result": 5}}), RequestError, "params.context.result"),
        (request(params={"context": 5}), RequestError, "params.context"),
    ],
)
def test_request_of_the_wrong_form_names_the_field(sent, error, field):
    with pytest.raises(error) as caught:
        parse_predict_request(sent)
    assert caught.value.field == field
    assert caught.value.http_status == 400


def test_prompts_of_an_unknown_form_are_left_out():
    results = [{"type": "keypoint"}, 5, {"type": "keypoint", "value": {"x": "left"}}, None]
    assert parse_predict_request(request(params={"context": {"result": results}})).prompts == ()


def test_captured_setup():
    parsed = parse_setup_request(body("setup_POST"))
    assert (parsed.project_id, parsed.hostname) == (14, "http://127.0.0.1:8085")
    assert parse_label_config(parsed.label_config).slot(0).image == "image_0"
    assert parsed.access_token not in repr(parsed)


def test_task_of_the_api():
    task = parse_task({"id": 5, "project": 2, "data": {"images": ["a"]}}, SCHEMA, place="task 5")
    assert (task.id, task.project_id, task.image_fields) == (5, 2, ("task 5.data.images[0]",))
    with pytest.raises(InvalidTaskError, match=r"task 5\.id"):
        parse_task({"id": "5"}, SCHEMA, place="task 5")


def test_more_tasks_than_any_answer_could_hold_are_refused():
    with pytest.raises(RequestError, match=f"at most {MAX_TASKS} tasks") as caught:
        parse_predict_request(request(*[{}] * (MAX_TASKS + 1)))
    assert caught.value.field == "tasks"


def test_an_image_may_be_in_the_task_itself():
    url = "data:image/png;base64," + "A" * 100_000
    task = parse_task({"id": 1, "data": {"images": [f" {url}\n"]}}, SCHEMA)
    assert (task.image_urls, task.problem) == ((url,), None)


def schema_of(image, labels='<Label value="leg"/>', attributes=""):
    masks = f'<BrushLabels name="m" toName="i" {attributes}>{labels}</BrushLabels>'
    return parse_label_config(f"<View>{image}{masks}</View>")


@pytest.mark.parametrize(
    ("value", "data", "url", "field"),
    [
        ("/data/upload/1/$f1", {"f1": "a.png"}, "/data/upload/1/a.png", "f1"),
        ("/data/$folder/$n", {"folder": "x", "n": 7}, "/data/x/7", "folder"),
        ("$images[0]", {"images": ["a", "b"]}, "a", "images[0]"),
        ("$images[1].url", {"images": [{}, {"url": "b"}]}, "b", "images[1].url"),
        ("$pair.left", {"pair": {"left": "a"}}, "a", "pair.left"),
        ("$pair.left", {"pair.left": "whole"}, "whole", "pair.left"),
        ("$name-small", {"name": "a.png"}, "a.png-small", "name-small"),
        ("$name-small", {"name-small": "b"}, "b", "name-small"),
    ],
)
def test_an_image_is_where_its_tag_says(value, data, url, field):
    schema = schema_of(f'<Image name="i" value="{value}"/>')
    task = parse_task({"id": 1, "data": data}, schema)
    assert (task.image_urls, task.image_fields) == ((url,), (f"task.data.{field}",))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("/data/upload/1/$f1", {}),
        ("/data/upload/1/$f1", {"f1": {}}),
        ("/data/upload/1/$f1", {"f1": ""}),
        ("$images[2]", {"images": ["a"]}),
        ("$images[0]", {"images": "a"}),
        ("$pair.left", {"pair": ["a"]}),
    ],
)
def test_an_image_that_is_not_there_is_named(value, data):
    task = parse_task({"id": 1, "data": data}, schema_of(f'<Image name="i" value="{value}"/>'))
    assert "expected an image URL" in task.problem
    assert value.rsplit("$", 1)[1] in task.problem


def test_two_tags_may_show_one_image():
    images = '<Image name="i" value="$a"/><Image name="j" value="$a"/>'
    masks = '<BrushLabels name="m" toName="i,j"><Label value="leg"/></BrushLabels>'
    task = parse_task(
        {"id": 1, "data": {"a": "x"}}, parse_label_config(f"<View>{images}{masks}</View>")
    )
    assert task.image_urls == ("x", "x")


def test_a_repeater_may_fill_in_its_images():
    config = (
        '<View><Repeater on="$pair.views">'
        '<Image name="i{{idx}}" value="/data/$pair.views[{{idx}}].f"/>'
        '<BrushLabels name="m{{idx}}" toName="i{{idx}}"><Label value="leg"/></BrushLabels>'
        "</Repeater></View>"
    )
    data = {"pair": {"views": [{"f": "a"}, {"f": "b"}]}}
    task = parse_task({"id": 1, "data": data}, parse_label_config(config))
    assert task.image_urls == ("/data/a", "/data/b")
    assert task.image_fields[1] == "task.data.pair.views[1].f"


def test_labels_of_the_task_may_lie_deeper():
    schema = schema_of('<Image name="i" value="$a"/>', attributes='value="$meta.parts"')
    data = {"a": "x", "meta": {"parts": [{"value": "seat"}, {"value": "arm"}]}}
    task = parse_task({"id": 1, "data": data}, schema)
    assert [label.value for label in closed_labels(schema, task.labels)] == ["leg", "seat", "arm"]


CLOSED_CONFIG = """<View><Image name="a" value="$a"/>
<BrushLabels name="b" toName="a"><Label value="lid"/></BrushLabels>
<KeyPointLabels name="k" toName="a" smart="true"><Label value="lid"/></KeyPointLabels></View>"""


def clicked(count, label="lid", drafts=()):
    point = {
        "type": "keypointlabels",
        "from_name": "k",
        "to_name": "a",
        "original_width": 9,
        "original_height": 9,
        "value": {"x": 1, "y": 1, "keypointlabels": [label]},
    }
    return json.dumps(
        {
            "tasks": [{"id": 1, "data": {"a": "a.png"}, "drafts": list(drafts)}],
            "label_config": CLOSED_CONFIG,
            "params": {"context": {"result": [point | {"id": f"p{k}"} for k in range(count)]}},
        }
    ).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (clicked(101), "at most 100 clicks and boxes at once, got 101"),
        (clicked(1000), "got 1000"),
        (clicked(1, label="x" * 1001), "labels of at most 1000 characters"),
        (clicked(3, label="x" * 100_000), "labels of at most 1000 characters"),
    ],
)
def test_what_no_annotator_clicks_is_refused(body, words):
    with pytest.raises(RequestError, match=words) as caught:
        parse_predict_request(body)
    assert caught.value.field == "params.context.result"


def test_as_much_as_an_annotator_clicks_is_read():
    assert len(parse_predict_request(clicked(100, label="x" * 1000)).prompts) == 100


def test_of_a_canvas_of_very_many_regions_some_are_looked_at():
    mask = {
        "type": "brushlabels",
        "from_name": "b",
        "to_name": "a",
        "original_width": 9,
        "original_height": 9,
        "value": {"rle": [1], "brushlabels": ["lid"]},
    }
    draft = {"result": [mask | {"id": f"r{k}"} for k in range(3000)]}
    assert len(parse_predict_request(clicked(1, drafts=[draft])).canvas) == 2000


@pytest.mark.parametrize(
    ("value", "is_series"),
    [(True, True), ("true", True), (" True ", True), (False, False), ("", False), (None, False)]
    # A column of this name may be the project's own.
    + [(1, False), ("A-7", False), (["true"], False), ({}, False)],
)
def test_a_task_says_whether_its_images_are_a_series(value, is_series):
    task = only_task({"images": ["/a.png", "/b.png"], "series": value})
    assert (task.problem, task.is_series) == (None, is_series)
