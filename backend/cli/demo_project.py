"""The sample project of `calico demo`: drawn groups of images, imported, connected, pre-annotated.

Processes are started and stopped elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backend.cli.connect import Ends
from backend.errors import BackendError, LabelStudioError
from backend.label_schema import LabelSchema
from backend.label_studio.backend_client import BackendClient
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.group_config import open_config
from backend.label_studio.group_project import add_group_view, create_group_project
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.onboarding import retrieve_predictions
from backend.label_studio.untouched import show_version
from backend.types import Task
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng

GROUP_SIZES = (2, 3, 4)
SIZE_PX = 384
SEED = 3
TITLE = "CALICO: parts that groups of images share"
IMAGES = "images"
POLL_S = 0.5
PREDICT_TIMEOUT_S = 600.0

Tell = Callable[[int], None]


@dataclass(frozen=True)
class PredictionCheck:
    """The result of checking the predictions of a project.

    Attributes:
        tasks: number of tasks whose newest prediction has masks, all of the right size.
        regions: number of these masks.
        problems: one sentence per task without masks, or with a wrong mask.
    """

    tasks: int
    regions: int
    problems: tuple[str, ...]


def draw_groups(files: Path, count: int, tell: Tell) -> list[list[str]]:
    """Draws groups of 2, 3, 4, 2, ... images as PNG files, always the same groups.

    Args:
        files: Label Studio's document root; the images go into a subfolder.
        count: number of groups.
        tell: called with the number of groups drawn.

    Returns:
        Task data per group: the images' addresses inside Label Studio.
    """
    groups = []
    for index in range(count):
        rng = group_rng(Stream.EVALUATION, SEED, index)
        size = GROUP_SIZES[index % len(GROUP_SIZES)]
        scenes = draw_group(rng, split=SceneSplit.SEEN, group_size=size, size_px=SIZE_PX)
        names = [f"{IMAGES}/group-{index + 1:02}-{place}.png" for place in "abcdefgh"[:size]]
        for name, scene in zip(names, scenes, strict=True):
            path = files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(scene.image)).save(path)
        groups.append([f"/data/local-files/?d={name}" for name in names])
        tell(index + 1)
    return groups


def create_project(
    client: LabelStudioClient,
    files: Path,
    groups: list[list[str]],
    *,
    title: str = TITLE,
    folder: str = IMAGES,
) -> int:
    """Creates a project with an open labeling config, its images and tasks; returns its id.

    Args:
        client: Label Studio.
        files: its document root.
        groups: addresses of the images of each task.
        title: of the project.
        folder: of the images, below the document root.
    """
    project = create_group_project(client, title, open_config(), is_open=True)
    add_group_view(client, project.id)
    client.add_local_storage(project.id, str(files / folder), title="sample images")
    client.import_tasks(project.id, [{"data": {"images": images}} for images in groups])
    return project.id


def preannotate(ends: Ends, project_id: int, tell: Tell) -> int:
    """Requests predictions for all tasks through Label Studio and waits until all are there.

    Tasks that do not fit into one request are predicted later, so predictions are counted.

    Args:
        ends: Label Studio and the backend.
        project_id: the project.
        tell: called with the number of predicted tasks.

    Returns:
        The number of tasks.

    Raises:
        LabelStudioError: some tasks have no prediction after ten minutes.
    """
    done, total = _progress(ends.client, project_id)
    if done < total:
        retrieve_predictions(ends.client, project_id)
    deadline = time.monotonic() + PREDICT_TIMEOUT_S
    while done < total:
        if time.monotonic() > deadline:
            raise LabelStudioError(
                f"{total - done} of {total} tasks have no prediction after "
                f"{PREDICT_TIMEOUT_S:g} s; the backend's log says why"
            )
        time.sleep(POLL_S)
        done, total = _progress(ends.client, project_id)
        tell(done)
    return total


def show_scores(ends: Ends, project_id: int) -> None:
    """Has the Data Manager show the scores of the predictions that the backend makes now.

    Raises:
        BackendError: one of the two ends refused, or was not reached.
    """
    project = ends.client.project(project_id)
    with closing(BackendClient(ends.backend_url, ends.credentials)) as backend:
        version = backend.version(project_id, project.label_config)
        ours = backend.versions()
    show_version(ends.client, project_id, version, ours=ours, credentials=ends.credentials)


def check_predictions(client: LabelStudioClient, project_id: int, files: Path) -> PredictionCheck:
    """Decodes every mask that Label Studio stores and compares its size with its image."""
    schema = parse_label_config(client.project(project_id).label_config)
    tasks, regions, problems = 0, 0, list[str]()
    for task in client.tasks(project_id, schema):
        try:
            regions += _check_task(client, schema, task, files)
            tasks += 1
        except BackendError as error:
            problems.append(f"task {task.id}: {error}")
    return PredictionCheck(tasks, regions, tuple(problems))


def _check_task(client: LabelStudioClient, schema: LabelSchema, task: Task, files: Path) -> int:
    """Returns the number of masks in the newest prediction.

    Raises:
        InvalidRleError: a mask that cannot be decoded.
        LabelStudioError: no prediction, no mask, or a mask that does not fit its image.
    """
    predictions = () if task.id is None else client.predictions(task.id, schema)
    newest = max(predictions, key=lambda prediction: prediction.id or 0, default=None)
    if newest is None or not newest.regions:
        raise LabelStudioError("no prediction" if newest is None else "a prediction without masks")
    for region in newest.regions:
        name = task.image_urls[region.image_index].partition("?d=")[2]
        with Image.open(files / name) as image:
            size_hw = (image.height, image.width)
        if region.mask.shape != size_hw or not region.mask.any():
            raise LabelStudioError(f"{name}: expected a mask of {size_hw}, got {region.size_hw}")
    return len(newest.regions)


def _progress(client: LabelStudioClient, project_id: int) -> tuple[int, int]:
    """Returns the number of tasks with a prediction, and of all tasks."""
    tasks = [bool(task.get("predictions")) for task in client.raw_tasks(project_id, fields="all")]
    return sum(tasks), len(tasks)
