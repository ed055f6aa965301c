"""Which answers count as the same one: the key under which they are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.label_schema import LabelValue
from backend.label_studio import result
from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionJob, answer_key, content_key
from backend.serving.rendering import code_version
from backend.types import Task
from calico_model.types import ImageGroup

CONFIG = """<View><Image name="a" value="$a"/><BrushLabels name="b" toName="a">
<Label value="{label}"/></BrushLabels></View>"""


def work(label="lid"):
    task = Task(id=1, project_id=2, image_urls=("/data/a.png",), image_fields=("a",))
    return PredictionJob(task, parse_label_config(CONFIG.format(label=label)))


def key(one, *, content="c", version="v", code="1/1"):
    return answer_key(one, content, version=version, code=code)


def of_task(**changes):
    return replace(work(), task=replace(work().task, **changes))


def test_equal_work_has_an_equal_key_wherever_its_pictures_lie():
    assert key(work()) == key(work()) == key(of_task(image_urls=("/data/b.png",)))


@pytest.mark.parametrize(
    "other",
    [
        key(of_task(labels=(LabelValue("lid"),))),
        key(of_task(labels=(LabelValue("lid", aliases=("cover",)),))),
        key(of_task(id=3)),
        key(of_task(project_id=3)),
        key(work(label="handle")),
        key(work(), content="d"),
        key(work(), version="w"),
        key(work(), code="1/2"),
    ],
)
def test_all_an_answer_depends_on_is_in_its_key(other):
    assert other != key(work())


def test_another_way_of_writing_is_another_code(monkeypatch):
    before = code_version()
    monkeypatch.setattr("backend.serving.rendering.RENDERING_VERSION", result.RENDERING_VERSION + 1)
    assert code_version() != before


def test_content_is_pixels_and_shape():
    flat = np.zeros((2, 6, 3), np.uint8)
    groups = [ImageGroup((image,), ("a",)) for image in (flat, flat.reshape(6, 2, 3), flat + 1)]
    assert len({content_key(group) for group in groups}) == 3
