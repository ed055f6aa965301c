"""A part accepted on the first image of a series appears on the images that follow it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from backend.cli.connect import Ends, connect_project
from backend.cli.demo import Demo
from backend.cli.demo_project import preannotate
from backend.label_studio.group_config import open_config
from backend.label_studio.group_project import add_group_view, create_group_project
from backend.label_studio.label_config import parse_label_config
from calico_model.data.casting import SceneSplit, Stream, group_rng
from calico_model.data.series import draw_series, part_masks
from calico_model.evaluation.annotator import next_click
from calico_model.evaluation.matching import iou_matrix
from calico_model.types import BoolMask
from tests.e2e.studio_api import delete_project
from tests.e2e.test_click import (
    Clickable,
    accept_all,
    click_first_image,
    delete_everything,
    open_clickable,
    point_with_label,
    regions_in,
    submit,
)

pytestmark = pytest.mark.e2e

_FRAMES, _SIDE_PX = 4, 256


@dataclass(frozen=True)
class Series:
    """A task whose images are a series.

    Attributes:
        task: its project, and what it was pre-annotated with.
        part: the truth of one part on each image.
    """

    task: Clickable
    part: tuple[BoolMask, ...]


@pytest.fixture
def series(demo: Demo, ends: Ends) -> Iterator[Series]:
    rng = group_rng(Stream.EVALUATION, 7, 0)
    scenes = draw_series(rng, _FRAMES, split=SceneSplit.SEEN, size_px=_SIDE_PX)
    truth = [part_masks(scene) for scene in scenes]
    name = max(truth[0], key=lambda part: int(truth[0][part].sum()))
    folder = demo.files / "series"
    folder.mkdir(exist_ok=True)
    for number, scene in enumerate(scenes):
        Image.fromarray(np.ascontiguousarray(scene.image)).save(folder / f"{number}.png")
    images = [f"/data/local-files/?d=series/{number}.png" for number in range(_FRAMES)]
    project = create_group_project(ends.client, "a series", open_config(), is_open=True)
    add_group_view(ends.client, project.id)
    ends.client.add_local_storage(project.id, str(folder), title="series")
    ends.client.import_tasks(project.id, [{"data": {"images": images, "series": True}}])
    connect_project(ends, project.id)
    preannotate(ends, project.id, lambda done: None)
    schema = parse_label_config(ends.client.project(project.id).label_config)
    (task,) = ends.client.raw_tasks(project.id)
    (prediction,) = ends.client.predictions(int(str(task["id"])), schema)
    clickable = Clickable(project.id, schema, prediction, ())
    yield Series(clickable, tuple(parts[name] for parts in truth))
    delete_project(ends.client, project.id)


def test_what_is_accepted_on_the_first_image_appears_on_the_following_ones(
    page: Page, ends: Ends, series: Series, screenshots: Path | None
) -> None:
    task = series.task
    open_clickable(page, ends, task)
    if task.prediction.regions:
        delete_everything(page, task)
    point_with_label(page)

    click = next_click(np.zeros_like(series.part[0]), series.part[0])
    assert click is not None
    answer = click_first_image(page, click.row, click.column, series.part[0].shape)

    suggested = regions_in(answer["result"], task.schema)
    assert sorted(one.image_index for one in suggested.values()) == list(range(_FRAMES))
    for region in suggested.values():
        truth = series.part[region.image_index]
        assert iou_matrix([region.mask], [truth])[0, 0] > 0.6
    if screenshots is not None:
        page.set_viewport_size({"width": 1480, "height": 1340})
        page.mouse.move(0, 0)
        page.screenshot(path=screenshots / "series.png")

    accept_all(page, _FRAMES)
    kept = regions_in(submit(page, ends, task), task.schema)
    assert {name: one.image_index for name, one in kept.items()} == {
        name: one.image_index for name, one in suggested.items()
    }
