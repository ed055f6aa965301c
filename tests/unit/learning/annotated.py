"""Regions, annotations and webhook bodies drawn for tests of what is learned from them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np

from backend.label_studio.brush import encode_mask
from backend.label_studio.event import parse_events
from backend.types import Annotation, Region, RegionOrigin
from calico_model.types import RegionKind
from research.label_studio.sample import REPEATER_CONFIG

START = datetime(2026, 3, 1, tzinfo=UTC)
KIND = RegionKind.COMMON_PART


def box(y0, x0, y1, x1, *, size=(40, 60)):
    """(H, W) bool with one filled rectangle."""
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def region(id_, mask, *, image=0, kind=KIND, label="handle", more=(), encoding=None, load=None):
    """A region with a mask, encoded as the editor would."""
    return Region(
        id=id_,
        image_index=image,
        size_hw=mask.shape,
        kind=kind,
        label=label,
        origin=RegionOrigin.PREDICTION,
        score=0.9,
        load_mask=load or (lambda: mask.copy()),
        encoding=json.dumps(encode_mask(mask)).encode() if encoding is None else encoding,
        more_labels=more,
    )


def annotation(id_, *regions, annotator=1, second=0, skipped=False, truth=False, parent=None):
    """An annotation of task 5 in project 7."""
    return Annotation(
        id=id_,
        task_id=5,
        project_id=7,
        annotator_id=annotator,
        updated_at=START + timedelta(seconds=second),
        was_skipped=skipped,
        parent_prediction_id=parent,
        regions=regions,
        is_ground_truth=truth,
    )


def results(*drawn):
    """Result list of regions (id, mask, label[, kind[, image]]), attributes repeating the mask."""
    found = []
    for id_, mask, label, *rest in drawn:
        kind = rest[0] if rest else "common_part"
        index = rest[1] if len(rest) > 1 else 0
        rle = encode_mask(mask)
        frame = {
            "id": id_,
            "to_name": f"image_{index}",
            "original_width": mask.shape[1],
            "original_height": mask.shape[0],
            "image_rotation": 0,
            "origin": "prediction",
        }
        value = {"format": "rle", "rle": rle}
        found.append(frame | {"from_name": f"mask_{index}", "type": "brush", "value": value})
        said = (("kind", "labels", {"labels": [kind]}), ("part", "textarea", {"text": [label]}))
        for tag, type_, words in said:
            attribute = {"from_name": f"{tag}_{index}", "type": type_, "value": value | words}
            found.append(frame | attribute)
    return found


def body(
    annotation_id,
    result,
    *,
    task=5,
    second=0,
    project=7,
    annotator=1,
    skipped=False,
    truth=False,
    parent=None,
    action="ANNOTATION_UPDATED",
):
    """Body of POST /webhook."""
    moment = (START + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")
    return {
        "action": action,
        "annotation": {
            "id": annotation_id,
            "task": task,
            "project": project,
            "completed_by": annotator,
            "updated_at": moment,
            "was_cancelled": skipped,
            "ground_truth": truth,
            "parent_prediction": parent,
            "result": result,
        },
        "task": {"id": task, "data": {"images": ["/data/a.png", "/data/b.png"]}},
        "project": {"id": project, "label_config": REPEATER_CONFIG},
    }


def event(*arguments, **options):
    """The one journal event of a body."""
    (found,) = parse_events(json.dumps(body(*arguments, **options)).encode())
    return found


def deletion(annotation_id, *, project=7):
    """The journal event of a deleted annotation."""
    sent = {
        "action": "ANNOTATIONS_DELETED",
        "annotations": [{"id": annotation_id}],
        "project": {"id": project, "label_config": REPEATER_CONFIG},
    }
    (found,) = parse_events(json.dumps(sent).encode())
    return found


def task_deletion(*task_ids, project=7):
    """The journal event of deleted tasks."""
    sent = {
        "action": "TASKS_DELETED",
        "tasks": [{"id": task_id} for task_id in task_ids],
        "project": {"id": project},
    }
    (found,) = parse_events(json.dumps(sent).encode())
    return found
