"""Sample requests in Label Studio's form, to measure a backend without a Label Studio.

Bodies are plain JSON values, so that a caller can damage them on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

JsonObject = dict[str, object]

PROJECT_ID = 14
_PROJECT = f"{PROJECT_ID}.1795191017"
_START = datetime(2026, 1, 1, tzinfo=UTC)

REPEATER_CONFIG = """<View>
  <Repeater on="$images" indexFlag="{{idx}}">
    <View>
      <Image name="image_{{idx}}" value="$images[{{idx}}]"/>
      <Labels name="kind_{{idx}}" toName="image_{{idx}}">
        <Label value="common_object"/><Label value="common_part"/><Label value="unique_part"/>
      </Labels>
      <Brush name="mask_{{idx}}" toName="image_{{idx}}" smart="false"/>
      <KeyPoint name="point_{{idx}}" toName="image_{{idx}}" smart="true" smartOnly="true"/>
      <TextArea name="part_{{idx}}" toName="image_{{idx}}" perRegion="true" editable="true"/>
    </View>
  </Repeater>
  <Relations><Relation value="same_part"/></Relations>
</View>"""


def local_file_url(name: str) -> str:
    """Returns the URL of a file in the folder that the backend shares with Label Studio."""
    return f"/data/local-files/?d={name}"


def setup_body() -> JsonObject:
    """Body of POST /setup."""
    return {
        "project": _PROJECT,
        "schema": REPEATER_CONFIG,
        "hostname": "http://127.0.0.1:8080",
        "access_token": "0" * 40,
        "extra_params": {},
    }


def predict_body(
    groups: Sequence[Sequence[str]],
    *,
    first_task_id: int = 1,
    drafts: Sequence[JsonObject] = (),
) -> JsonObject:
    """Body of POST /predict for groups of image URLs, each with the same drafts."""
    return {
        "tasks": [
            {
                "id": first_task_id + number,
                "data": {"images": list(urls)},
                "meta": {},
                "project": PROJECT_ID,
                "annotations": [],
                "drafts": list(drafts),
                "predictions": [],
            }
            for number, urls in enumerate(groups)
        ],
        "project": _PROJECT,
        "label_config": REPEATER_CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }


def click_body(
    urls: Sequence[str],
    *,
    x: float,
    y: float,
    name: str = "prompt0001",
    side: int = 256,
    drafts: Sequence[JsonObject] = (),
) -> JsonObject:
    """Body of POST /predict after a click; x and y in percent of the first image.

    Args:
        urls: of the images, squares of `side` pixels.
        x, y: in percent.
        name: id of the prompt.
        side: in pixels.
        drafts: drafts of the task, with the regions drawn so far.
    """
    body = predict_body([urls], drafts=drafts)
    frame: JsonObject = {"id": name, "to_name": "image_0", "image_rotation": 0}
    frame |= {"original_width": side, "original_height": side}
    point = frame | {
        "from_name": "point_0",
        "type": "keypoint",
        "is_positive": True,
        "value": {"x": x, "y": y, "width": 0.5, "labels": ["common_part"]},
    }
    label = frame | {
        "from_name": "kind_0",
        "type": "labels",
        "value": {"x": x, "y": y, "width": 0.5, "labels": ["common_part"]},
    }
    body["params"] = {"context": {"result": [point, label]}}
    return body


def clicks_body(
    urls: Sequence[str], places: Sequence[tuple[float, float]], *, side: int = 256
) -> JsonObject:
    """Body of POST /predict after many clicks; places and side as in `click_body`."""
    body = predict_body([urls])
    body["params"] = {
        "context": {
            "result": [
                {
                    "id": f"prompt{number:04}",
                    "from_name": "point_0",
                    "to_name": "image_0",
                    "type": "keypoint",
                    "is_positive": True,
                    "original_width": side,
                    "original_height": side,
                    "value": {"x": x, "y": y, "width": 0.5, "labels": ["common_part"]},
                }
                for number, (x, y) in enumerate(places)
            ]
        }
    }
    return body


def name_result(name: str, image_index: int, text: str, *, side: int = 256) -> JsonObject:
    """Result that names a region, beside the results of `mask_results`."""
    frame: JsonObject = {"id": name, "to_name": f"image_{image_index}", "image_rotation": 0}
    frame |= {"original_width": side, "original_height": side, "origin": "manual"}
    return frame | {
        "from_name": f"part_{image_index}",
        "type": "textarea",
        "value": {"text": [text]},
    }


def mask_results(
    name: str,
    image_index: int,
    rle: Sequence[int],
    *,
    side: int = 256,
    kind: str = "common_part",
) -> list[JsonObject]:
    """Results of one region as the editor writes them: the label result repeats the mask."""
    frame: JsonObject = {"id": name, "to_name": f"image_{image_index}", "image_rotation": 0}
    frame |= {"original_width": side, "original_height": side, "origin": "manual"}
    value: JsonObject = {"format": "rle", "rle": list(rle)}
    mask = frame | {"from_name": f"mask_{image_index}", "type": "brush", "value": value}
    label = frame | {
        "from_name": f"kind_{image_index}",
        "type": "labels",
        "value": value | {"labels": [kind]},
    }
    return [mask, label]


def event_body(annotation_id: int, *, rle: Sequence[int]) -> JsonObject:
    """Body of POST /webhook after an annotator submitted one mask."""
    frame: JsonObject = {"id": "region0001", "to_name": "image_0", "image_rotation": 0}
    frame |= {"original_width": 256, "original_height": 256, "origin": "manual"}
    mask = frame | {
        "from_name": "mask_0",
        "type": "brush",
        "value": {"format": "rle", "rle": list(rle)},
    }
    label = frame | {
        "from_name": "kind_0",
        "type": "labels",
        "value": {"labels": ["common_part"]},
    }
    urls = [local_file_url("a.png"), local_file_url("b.png")]
    return annotation_body(annotation_id, [mask, label], urls=urls)


def annotation_body(
    annotation_id: int,
    result: Sequence[JsonObject],
    *,
    urls: Sequence[str],
    task_id: int = 1,
    project_id: int = PROJECT_ID,
) -> JsonObject:
    """Body of POST /webhook after an annotator submitted a task; larger ids are later."""
    moment = (_START + timedelta(seconds=annotation_id)).isoformat().replace("+00:00", "Z")
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": {
            "id": annotation_id,
            "task": task_id,
            "project": project_id,
            "completed_by": 1,
            "updated_at": moment,
            "was_cancelled": False,
            "parent_prediction": None,
            "result": list(result),
        },
        "task": {"id": task_id, "data": {"images": list(urls)}},
        "project": {"id": project_id, "label_config": REPEATER_CONFIG},
    }


def deletion_body(annotation_id: int, *, project_id: int = PROJECT_ID) -> JsonObject:
    """Body of POST /webhook after an annotation was deleted."""
    return {
        "action": "ANNOTATIONS_DELETED",
        "annotations": [{"id": annotation_id}],
        "project": {"id": project_id, "label_config": REPEATER_CONFIG},
    }


def training_body() -> JsonObject:
    """Body of POST /webhook after somebody pressed Start training."""
    return {
        "action": "START_TRAINING",
        "project": {"id": PROJECT_ID, "label_config": REPEATER_CONFIG},
    }
