"""Plays Label Studio's API over tasks, annotations and predictions held in memory."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import httpx

from backend.label_studio.client import LabelStudioClient
from research.label_studio.sample import REPEATER_CONFIG
from tests.unit.learning.annotated import START


def moment(second):
    return (START + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


class FakeStudio:
    """Answers as Label Studio 1.23 does; `failures` are answered first, one per call."""

    def __init__(self, project=7, page_limit=None):
        self.project = project
        self.page_limit = page_limit
        self.tasks = {}
        self.predictions = {}
        self.failures = []
        self.asked = []

    def client(self):
        transport = httpx.MockTransport(self)
        return LabelStudioClient("http://studio:8080", "0" * 40, transport=transport)

    def add_task(self, task_id, *, second=0):
        data = {"images": ["/data/a.png", "/data/b.png"]}
        drafts = [{"id": 1, "result": [{"id": "draft"}]}]
        self.tasks[task_id] = {"id": task_id, "data": data, "annotations": [], "drafts": drafts}
        self.tasks[task_id]["updated_at"] = moment(second)

    def annotate(self, body):
        """Stores the annotation of a webhook body, as the submit that sends it does."""
        said = body["annotation"]
        if said["task"] not in self.tasks:
            self.add_task(said["task"])
        task = self.tasks[said["task"]]
        task["annotations"] = [a for a in task["annotations"] if a["id"] != said["id"]]
        task["annotations"].append(said)
        task["updated_at"] = max(task["updated_at"], said["updated_at"])

    def unannotate(self, annotation_id, *, second):
        for task in self.tasks.values():
            kept = [a for a in task["annotations"] if a["id"] != annotation_id]
            if len(kept) < len(task["annotations"]):
                task["updated_at"] = moment(second)
            task["annotations"] = kept

    def __call__(self, request):
        self.asked.append(request)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        path = request.url.path
        if path == f"/api/projects/{self.project}/":
            answer = {"id": self.project, "title": "t", "label_config": REPEATER_CONFIG}
            return httpx.Response(200, json=answer)
        if path == "/api/tasks/":
            return self._page(request.url.params)
        if path.startswith("/api/predictions/"):
            found = self.predictions.get(int(path.split("/")[3]))
            if found is not None:
                return httpx.Response(200, json=found)
        return httpx.Response(404, json={"detail": "Not found."})

    def _page(self, params):
        assert params["resolve_uri"] == "false"
        query = json.loads(params["query"])
        found = [self.tasks[task_id] for task_id in sorted(self.tasks)]
        if "selectedItems" in query:
            assert query["selectedItems"]["all"] is False
            found = [t for t in found if t["id"] in query["selectedItems"]["included"]]
        for item in query.get("filters", {}).get("items", []):
            assert item["filter"] == "filter:tasks:updated_at"
            assert item["operator"] == "greater"
            since = datetime.strptime(item["value"], "%Y-%m-%dT%H:%M:%S.%fZ")
            since = since.replace(tzinfo=START.tzinfo)
            found = [t for t in found if datetime.fromisoformat(t["updated_at"]) > since]
        size = min(int(params["page_size"]), self.page_limit or 10**9)
        first = (int(params["page"]) - 1) * size
        page = found[first : first + size]
        if not page and first:
            return httpx.Response(404, json={"detail": "Invalid page."})
        tasks = [self._task(task, params["fields"]) for task in page]
        return httpx.Response(200, json={"tasks": tasks, "total": len(found)})

    @staticmethod
    def _task(task, fields):
        annotations = task["annotations"]
        skipped = sum(bool(a["was_cancelled"]) for a in annotations)
        counts = {
            "total_annotations": len(annotations) - skipped,
            "cancelled_annotations": skipped,
        }
        shown = task if fields == "all" else {k: task[k] for k in ("id", "data", "updated_at")}
        return shown | counts
