"""A Label Studio of one project in memory, for `calico export`: tasks, annotations, images."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli import export as command
from backend.errors import MediaUnavailableError
from backend.label_studio.brush import encode_mask
from backend.label_studio.client import LabelStudioClient
from calico_model.picture import read_rgb

START = datetime(2026, 3, 1, tzinfo=UTC)
SIZE = (40, 60)


def config(*labels: str) -> str:
    """A labeling config of a closed label set, with kinds as choices."""
    values = "".join(f"<Label value='{label}'/>" for label in labels)
    return f"""<View><Repeater on="$images" indexFlag="{{{{idx}}}}"><View>
      <Image name="image_{{{{idx}}}}" value="$images[{{{{idx}}}}]"/>
      <Labels name="part_{{{{idx}}}}" toName="image_{{{{idx}}}}">{values}</Labels>
      <Brush name="mask_{{{{idx}}}}" toName="image_{{{{idx}}}}"/>
      <Choices name="kind_{{{{idx}}}}" toName="image_{{{{idx}}}}" perRegion="true">
        <Choice value="common_object"/><Choice value="common_part"/><Choice value="unique_part"/>
      </Choices></View></Repeater><Relations><Relation value="same_part"/></Relations></View>"""


def png(shade: int, size_hw: tuple[int, int] = SIZE) -> bytes:
    """A PNG file of one shade."""
    file = io.BytesIO()
    Image.fromarray(np.full((*size_hw, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def drawn(id_, mask, *labels, image=0, kind=None):
    """The results of one region."""
    frame = {"id": id_, "to_name": f"image_{image}", "image_rotation": 0}
    frame |= {"original_width": mask.shape[1], "original_height": mask.shape[0]}
    value = {"format": "rle", "rle": encode_mask(mask)}
    found = [frame | {"from_name": f"mask_{image}", "type": "brush", "value": value}]
    if labels:
        words = {"from_name": f"part_{image}", "type": "labels", "value": {"labels": list(labels)}}
        found.append(frame | words)
    if kind:
        words = {"from_name": f"kind_{image}", "type": "choices", "value": {"choices": [kind]}}
        found.append(frame | words)
    return found


class FakeStudio:
    """Plays Label Studio's API and the source of its images."""

    def __init__(self, label_config: str) -> None:
        self.label_config = label_config
        self.tasks: dict[int, dict] = {}
        self.predictions: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.folder: Path | None = None
        self.fetched: list[str] = []
        self.stop_at: str | None = None

    def add_task(self, *urls: str) -> int:
        """Adds a task; returns its id."""
        task_id = len(self.tasks) + 1
        times = {"updated_at": START.isoformat()}
        data = {"images": list(urls)}
        self.tasks[task_id] = {"id": task_id, "data": data, "annotations": []} | times
        return task_id

    def annotate(self, task_id: int, result: list, *, second: int = 0, **fields: object) -> int:
        """Adds an annotation; returns its id."""
        annotation_id = 100 * task_id + len(self.tasks[task_id]["annotations"])
        moment = (START + timedelta(seconds=second)).isoformat()
        annotation = {
            "id": annotation_id,
            "updated_at": moment,
            "result": result,
            "completed_by": 1,
        }
        self.tasks[task_id]["annotations"].append(annotation | fields)
        return annotation_id

    def predict(self, task_id: int, result: list) -> None:
        """Stores a prediction."""
        number = len(self.predictions) + 1
        values = {"task": task_id, "result": result, "model_version": "v1", "score": 0.5}
        self.predictions.append({"id": number} | values)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, params = request.url.path, request.url.params
        if path == "/api/projects/7/":
            project = {"id": 7, "title": "bikes", "label_config": self.label_config}
            return httpx.Response(200, json=project)
        if path == "/api/predictions/":
            wanted = int(params["task"])
            return httpx.Response(200, json=[p for p in self.predictions if p["task"] == wanted])
        assert path == "/api/tasks/", path
        chosen = json.loads(params["query"]).get("selectedItems", {}).get("included", self.tasks)
        tasks = [self.tasks[number] for number in chosen]
        return httpx.Response(200, json={"tasks": tasks, "total": len(tasks)})

    def fetch_file(self, url, *, field="url", task_id=None):
        if url == self.stop_at:
            raise KeyboardInterrupt
        if url not in self.files:
            raise MediaUnavailableError("not found", field=field)
        self.fetched.append(url)
        return self.files[url], read_rgb(self.files[url])

    def close(self):
        pass

    def local_path(self, url):
        path = None if self.folder is None else self.folder / url.rpartition("/")[2]
        return path if path is not None and path.is_file() else None

    def export(self, monkeypatch, kind: str, to: Path, *options: str):
        """Runs the command; returns its result."""
        transport = httpx.MockTransport(self)
        client = LabelStudioClient("http://studio", "t" * 40, transport=transport)
        monkeypatch.setattr(command, "label_studio_of", lambda settings: client)
        monkeypatch.setattr(command, "image_source", lambda settings, client: self)
        words = ["export", "--project", "7", "--format", kind, "--to", str(to), *options]
        return CliRunner().invoke(command_tree(words), words, catch_exceptions=True)

    def exported(self, monkeypatch, kind: str, to: Path, *options: str) -> dict:
        """Runs the command, which must succeed; returns its JSON line."""
        result = self.export(monkeypatch, kind, to, *options)
        if result.exception is not None:
            raise result.exception
        return json.loads(result.stdout.splitlines()[-1])
