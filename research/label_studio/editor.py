"""Requests that Label Studio sends while an annotator works, for simulated annotators and tests.

Annotations and their events are those of the editor and the server of Label Studio 1.23: every
per-region result repeats the region's whole mask, and its origin tells who made the region.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from backend.errors import RequestError
from backend.label_schema import LabelSchema
from backend.label_studio.annotation import parse_annotated
from backend.label_studio.result import render_region
from backend.label_studio.wire import decode
from backend.types import Region, RegionOrigin
from calico_model.types import PartMask, RegionKind

JsonObject = dict[str, object]

_CONFIG = """<View>
  <Repeater on="$images" indexFlag="{{idx}}">
    <View>
      <Image name="image_{{idx}}" value="$images[{{idx}}]"/>
      <Labels name="kind_{{idx}}" toName="image_{{idx}}">LABELS</Labels>
      <Brush name="mask_{{idx}}" toName="image_{{idx}}" smart="false"/>
      <TextArea name="part_{{idx}}" toName="image_{{idx}}" perRegion="true" editable="true"/>
    </View>
  </Repeater>
  <Relations><Relation value="same_part"/></Relations>
</View>"""


class _WireItem(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()
    score: float = 0.0
    model_version: str = ""


class _WireAnswer(msgspec.Struct):
    results: list[_WireItem]


@dataclass(frozen=True, eq=False)
class ShownPrediction:
    """One prediction as the editor shows it.

    Attributes:
        version: model version that made the prediction.
        regions: one per mask.
        same_part: pairs of ids of regions that are linked.
    """

    version: str
    regions: tuple[Region, ...]
    same_part: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One region of an annotation.

    Attributes:
        id: unique in the annotation; a predicted region keeps its id.
        part: mask, kind and label of the region.
        origin: who made the region.
    """

    id: str
    part: PartMask
    origin: RegionOrigin


@dataclass(frozen=True)
class SimulatedProject:
    """A project of a Label Studio that does not exist.

    Attributes:
        id: number of the project.
        label_config: labeling XML.
    """

    id: int
    label_config: str

    @property
    def stamp(self) -> str:
        """Name of the project in /setup and /predict: id and creation time."""
        return f"{self.id}.1795191017"


def open_config(kinds: Sequence[RegionKind]) -> str:
    """Returns a labeling config with `kinds` as labels and free part names."""
    labels = "".join(f'<Label value="{kind.value}"/>' for kind in kinds)
    return _CONFIG.replace("LABELS", labels)


def setup_request(project: SimulatedProject) -> JsonObject:
    """Body of POST /setup."""
    return {
        "project": project.stamp,
        "schema": project.label_config,
        "hostname": "http://127.0.0.1:8080",
        "access_token": "",
        "extra_params": None,
    }


def predict_request(project: SimulatedProject, task_id: int, urls: Sequence[str]) -> JsonObject:
    """Body of POST /predict when a task is opened."""
    return {
        "tasks": [_task(project, task_id, urls) | {"annotations": [], "predictions": []}],
        "project": project.stamp,
        "label_config": project.label_config,
        "params": {"login": None, "password": None, "context": None},
    }


def read_answer(body: bytes, schema: LabelSchema) -> ShownPrediction | None:
    """Reads the answer of POST /predict for one task; None means "not yet".

    Raises:
        RequestError: the answer has another form, or not exactly one item.
    """
    items = decode(body, _WireAnswer, RequestError).results
    if len(items) != 1:
        raise RequestError(f"expected one item, got {len(items)}", field="results")
    if bytes(items[0].result) in (b"", b"null"):
        return None
    regions, pairs = parse_annotated(items[0].result, schema)
    return ShownPrediction(items[0].model_version, regions, pairs)


def annotation_event(
    project: SimulatedProject,
    task_id: int,
    urls: Sequence[str],
    drawn: Sequence[Drawn],
    *,
    schema: LabelSchema,
    annotation_id: int,
    updated_at: datetime,
    parent_prediction_id: int | None,
) -> JsonObject:
    """Body of POST /webhook after an annotator submitted a task.

    Args:
        project: project of the task.
        task_id: id of the task.
        urls: of the task's images.
        drawn: regions of the annotation.
        schema: of the project's labeling config.
        annotation_id: id of the annotation.
        updated_at: UTC.
        parent_prediction_id: prediction that the annotation started from, or None.
    """
    moment = updated_at.isoformat().replace("+00:00", "Z")
    result = [item for region in drawn for item in _submitted(region, schema)]
    annotation: JsonObject = {
        "id": annotation_id,
        "result": result,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": moment,
        "updated_at": moment,
        "draft_created_at": None,
        "lead_time": 60.0,
        "prediction": {},
        "result_count": len(drawn),
        "unique_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{project.id}/{annotation_id}")),
        "import_id": None,
        "last_action": None,
        "bulk_created": False,
        "task": task_id,
        "project": project.id,
        "completed_by": 1,
        "updated_by": 1,
        "parent_prediction": parent_prediction_id,
        "parent_annotation": None,
        "last_created_by": None,
    }
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": annotation,
        "task": _task(project, task_id, urls),
        "project": _wire_project(project),
    }


def training_event(project: SimulatedProject) -> JsonObject:
    """Body of POST /webhook after somebody pressed Start training."""
    return {"action": "START_TRAINING", "project": _wire_project(project)}


def _submitted(region: Drawn, schema: LabelSchema) -> list[JsonObject]:
    results = render_region(region.part, schema, region_id=region.id)
    mask = results[0]["value"] if results else {}
    for result in results:
        result["origin"] = region.origin.value
        value = result["value"]
        if isinstance(value, dict) and isinstance(mask, dict):
            result["value"] = mask | value
    if results and region.origin is RegionOrigin.MANUAL:
        results[0].pop("score", None)
    return results


def _task(project: SimulatedProject, task_id: int, urls: Sequence[str]) -> JsonObject:
    return {"id": task_id, "data": {"images": list(urls)}, "meta": {}, "project": project.id}


def _wire_project(project: SimulatedProject) -> JsonObject:
    return {"id": project.id, "title": "simulation", "label_config": project.label_config}
