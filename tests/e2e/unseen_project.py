"""A project of a domain the model never met, with the truth an annotator works from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backend.label_schema import LabelSchema
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.result import render_prediction
from backend.types import Region
from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng, labeled_group
from calico_model.evaluation.matching import iou_matrix
from calico_model.types import GroupPrediction, LabeledGroup
from calico_model.vocabulary import normalise

_SEED = 77
_SIDE_PX = 320
_CONFIG = Path(__file__).parents[2] / "label_config" / "cosegment_open.xml"


@dataclass(frozen=True, eq=False)
class UnseenProject:
    """A project in Label Studio, and what is true of its tasks.

    Attributes:
        id: Label Studio's id.
        schema: of its labeling config.
        truth: by task id, in the order of the tasks.
    """

    id: int
    schema: LabelSchema
    truth: dict[int, LabeledGroup]

    def answer(self, task_id: int) -> bytes:
        """What an annotator who knows the truth leaves: a JSON list of results.

        Regions have the ids that predicted regions of the same image, kind and name have: to give
        one its right outline is to reshape it.
        """
        labeled = self.truth[task_id]
        rendered = render_prediction(
            GroupPrediction(labeled.parts, "truth"),
            self.schema,
            sizes_hw=labeled.group.sizes_hw,
        )
        return rendered.result

    def quality(self, task_id: int, regions: tuple[Region, ...]) -> float:
        """Mean IoU over the true regions of a task, 0 where none has the right name and kind."""
        return float(
            np.mean(
                [
                    max(
                        (
                            float(iou_matrix([region.mask], [part.mask])[0, 0])
                            for region in regions
                            if region.image_index == part.image_index
                            and region.kind is part.kind
                            and normalise(region.label or "") == normalise(part.label)
                        ),
                        default=0.0,
                    )
                    for part in self.truth[task_id].parts
                ]
            )
        )


def create_unseen_project(client: LabelStudioClient, files: Path, count: int) -> UnseenProject:
    """Draws pairs of an unseen domain and makes a project of them.

    Args:
        client: Label Studio.
        files: its document root for local files.
        count: tasks.
    """
    groups = []
    for index in range(count):
        rng = group_rng(Stream.EVALUATION, _SEED, index)
        scenes = draw_group(rng, split=SceneSplit.UNSEEN_DOMAIN, group_size=2, size_px=_SIDE_PX)
        groups.append(labeled_group(scenes))
    return create_project(client, files, "Learning: a domain nobody trained on", groups)


def create_project(
    client: LabelStudioClient, files: Path, title: str, groups: Sequence[LabeledGroup]
) -> UnseenProject:
    """Makes a project of pairs whose truth is known.

    Args:
        client: Label Studio.
        files: its document root for local files.
        title: of the project.
        groups: a task each.
    """
    config = _CONFIG.read_text(encoding="utf-8")
    project = client.create_project(title, config)
    folder = files / f"unseen-{project.id}"
    folder.mkdir(parents=True)
    tasks = []
    for index, labeled in enumerate(groups):
        names = [f"{folder.name}/{index:02}-{side}.png" for side in "ab"]
        for name, image in zip(names, labeled.group.images, strict=True):
            Image.fromarray(np.ascontiguousarray(image)).save(files / name)
        tasks.append({"data": {"images": [f"/data/local-files/?d={name}" for name in names]}})
    client.add_local_storage(project.id, str(folder), title="unseen images")
    ids = client.import_tasks(project.id, tasks)
    return UnseenProject(
        project.id, parse_label_config(config), dict(zip(ids, groups, strict=True))
    )
