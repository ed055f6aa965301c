"""Folders of small generated photographs, and a Label Studio that holds a project in memory."""

from __future__ import annotations

import json
from datetime import datetime
from email import policy
from email.parser import BytesParser
from pathlib import Path

import httpx
import numpy as np
from PIL import ExifTags, Image

from backend.label_studio.client import LabelStudioClient

URL = "http://studio:8080"


def draw(path, seed, *, size=(64, 48), taken=None, turn=None, quality=90):
    """Writes a photograph of soft coloured blobs; one seed is one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    image = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken.strftime(
            "%Y:%m:%d %H:%M:%S"
        )
    if turn is not None:
        exif[ExifTags.Base.Orientation] = turn
    image.save(path, exif=exif, quality=quality)
    return path


def at(minute, second=0):
    return datetime(2026, 5, 1, 12, minute, second)


class PhotoStudio:
    """Answers the calls of an import as Label Studio 1.23 does.

    Attributes:
        tasks, annotations, predictions: what the project holds.
        uploads: content by stored name.
        storages: paths that are served.
        fail_after: number of imports that succeed before the connection breaks, or None.
    """

    def __init__(self, config, root=None):
        self.config, self.root = config, root
        self.tasks, self.annotations, self.predictions = [], [], []
        self.uploads, self.storages = {}, []
        self.fail_after = None

    def client(self):
        return LabelStudioClient(URL, "0" * 40, transport=httpx.MockTransport(self))

    def images(self):
        """Addresses of the images of every task."""
        return [task["data"]["images"] for task in self.tasks]

    def __call__(self, request):
        path, params = request.url.path, request.url.params
        if path == "/api/projects/7/import":
            return self._import(request, params)
        known = {
            ("GET", "/api/projects/7/"): self._project,
            ("GET", "/api/tasks/"): self._tasks,
            ("GET", "/api/projects/7/file-uploads"): self._uploads,
            ("GET", "/api/storages/localfiles/"): self._storages,
            ("POST", "/api/storages/localfiles/"): self._add_storage,
            ("POST", "/api/storages/localfiles/validate"): self._validate,
            ("POST", "/api/predictions/"): self._predict,
            ("GET", "/api/predictions/"): self._predictions,
        }
        if path.endswith("/annotations/"):
            return self._annotate(request, int(path.split("/")[3]))
        return known[request.method, path](request, params)

    def _project(self, request, params):
        return httpx.Response(200, json={"id": 7, "title": "t", "label_config": self.config})

    def _tasks(self, request, params):
        size = int(params["page_size"])
        first = (int(params["page"]) - 1) * size
        counted = [
            task
            | {
                "total_annotations": sum(one["task"] == task["id"] for one in self.annotations),
                "total_predictions": sum(one["task"] == task["id"] for one in self.predictions),
                "cancelled_annotations": 0,
            }
            for task in self.tasks
        ]
        page = {"tasks": counted[first : first + size], "total": len(counted)}
        return httpx.Response(200, json=page)

    def _import(self, request, params):
        if params.get("commit_to_project") == "false":
            return self._upload(request)
        if self.fail_after == 0:
            raise httpx.ConnectError("gone")
        self.fail_after = None if self.fail_after is None else self.fail_after - 1
        first = len(self.tasks) + 1
        coming = json.loads(request.content)
        self.tasks += [task | {"id": first + place} for place, task in enumerate(coming)]
        ids = list(range(first, first + len(coming)))
        return httpx.Response(201, json={"task_ids": ids})

    def _upload(self, request):
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        parts = BytesParser(policy=policy.HTTP).parsebytes(head + request.read()).iter_parts()
        ids = []
        for part in parts:
            ids.append(len(self.uploads) + 1)
            name = f"upload/7/{ids[-1]:08x}-{part.get_filename()}"
            self.uploads[name] = part.get_payload(decode=True)
        return httpx.Response(201, json={"file_upload_ids": ids})

    def _uploads(self, request, params):
        wanted, names = json.loads(params["ids"]), list(self.uploads)
        # Label Studio promises no order.
        found = [{"id": one, "file": names[one - 1]} for one in reversed(wanted)]
        return httpx.Response(200, json=found)

    def _storages(self, request, params):
        return httpx.Response(200, json=[{"id": 1, "path": path} for path in self.storages])

    def _add_storage(self, request, params):
        self.storages.append(json.loads(request.content)["path"])
        return httpx.Response(201, json={"id": len(self.storages)})

    def _validate(self, request, params):
        path = Path(json.loads(request.content)["path"])
        if self.root is not None and self.root in path.parents:
            return httpx.Response(200)
        said = (
            f'Absolute local path "{path}" must be a subdirectory of '
            f'LOCAL_FILES_DOCUMENT_ROOT="{self.root or "/label-studio/files"}" by security reasons.'
        )
        return httpx.Response(400, json={"validation_errors": {"non_field_errors": [said]}})

    def _annotate(self, request, task_id):
        self.annotations.append({"task": task_id, **json.loads(request.content)})
        return httpx.Response(201, json={"id": len(self.annotations)})

    def _predict(self, request, params):
        self.predictions.append(json.loads(request.content))
        return httpx.Response(201, json={"id": len(self.predictions)})

    def _predictions(self, request, params):
        found = [one for one in self.predictions if one["task"] == int(params["task"])]
        return httpx.Response(200, json=found)
