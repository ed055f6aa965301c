"""Label Studio's API over HTTP, as far as predicting and reviewing a project need it."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

from research.label_studio.sample import REPEATER_CONFIG

PROJECT = 7
FITS = {
    "equal": lambda cell, value: cell == value,
    "greater": lambda cell, value: cell > value,
    "not_contains": lambda cell, value: not any(one in cell.split(",") for one in value),
}


class StudioDouble:
    """Tasks, predictions, annotations and tabs of one project, in memory.

    Args:
        on_event: called with the body of every webhook that Label Studio would send.
        backends: addresses of the backends that are registered with the project.
    """

    def __init__(self, on_event=lambda body: None, backends=()):
        self.tasks = {}
        self.predictions = {}
        self.annotations = {}
        self.views = {}
        self.drafts = set()
        self.on_event, self.backends = on_event, list(backends)
        self.version = None
        self.config = REPEATER_CONFIG
        self._last = 100

    def add_task(self, task_id, images):
        self.tasks[task_id] = {"id": task_id, "project": PROJECT, "data": {"images": list(images)}}

    def add_prediction(self, task_id, result, version, score=0.0):
        number = self._next()
        self.predictions[number] = {
            "id": number,
            "task": task_id,
            "result": result,
            "model_version": version,
            "score": score,
            "created_at": _now(),
        }
        return number

    def submit(self, annotation_id):
        """What happens when a person updates an annotation in the editor."""
        made = self.annotations[annotation_id]
        made |= {"updated_by": 1, "lead_time": 4.2, "updated_at": _now()}
        self._send("ANNOTATION_UPDATED", made)

    def of(self, task_id):
        return [one for one in self.predictions.values() if one["task"] == task_id]

    def app(self):
        app = Flask("studio")
        app.add_url_rule(f"/api/projects/{PROJECT}/", view_func=self._project)
        app.add_url_rule("/api/ml/", view_func=self._ml)
        app.add_url_rule("/api/ml/<int:number>", "retitle", self._retitle, methods=["PATCH"])
        app.add_url_rule("/api/tasks/", view_func=self._tasks)
        app.add_url_rule("/api/predictions/", "predictions", self._list_predictions)
        app.add_url_rule("/api/predictions/", "predict", self._create_prediction, methods=["POST"])
        app.add_url_rule("/api/predictions/<int:number>/", "prediction", self._prediction)
        app.add_url_rule(
            "/api/predictions/<int:number>/", "drop", self._drop_prediction, methods=["DELETE"]
        )
        app.add_url_rule(
            "/api/annotations/<int:number>/", "forget", self._drop_annotation, methods=["DELETE"]
        )
        app.add_url_rule("/api/dm/actions", view_func=self._act, methods=["POST"])
        app.add_url_rule("/api/dm/views/", "views", lambda: jsonify(list(self.views.values())))
        app.add_url_rule("/api/dm/views/", "make view", self._make_view, methods=["POST"])
        app.add_url_rule(
            "/api/dm/views/<int:number>/", "change view", self._change_view, methods=["PATCH"]
        )
        return app

    def _project(self):
        project = {"id": PROJECT, "title": "t", "label_config": self.config}
        return jsonify(project | {"model_version": self.version})

    def _ml(self):
        return jsonify(
            [
                {
                    "id": number,
                    "url": url,
                    "title": "CALICO",
                    "model_version": "fake-00000001",
                    "state": "CO",
                    "is_interactive": True,
                    "auth_method": "NONE",
                }
                for number, url in enumerate(self.backends)
            ]
        )

    def _retitle(self, number):
        # Label Studio copies a new title into the project, unless somebody chose another one.
        if self.version is None:
            self.version = request.get_json()["title"]
        return jsonify({"id": number})

    def _tasks(self):
        query = json.loads(request.args["query"])
        found = [self.tasks[task_id] for task_id in sorted(self.tasks)]
        if "selectedItems" in query:
            found = [t for t in found if t["id"] in query["selectedItems"]["included"]]
        for item in query.get("filters", {}).get("items", []):
            name, fits = item["filter"].removeprefix("filter:tasks:"), FITS[item["operator"]]
            found = [t for t in found if fits(self._column(t, name), item["value"])]
        size = int(request.args["page_size"])
        first = (int(request.args["page"]) - 1) * size
        if first and first >= len(found):
            return jsonify({"detail": "Invalid page."}), 404
        tasks = [self._shown(task) for task in found[first : first + size]]
        return jsonify({"tasks": tasks, "total": len(found)})

    def _column(self, task, name):
        if name in ("id", "draft_exists"):
            return task["id"] if name == "id" else task["id"] in self.drafts
        return self._counts(task)[name]

    def _counts(self, task):
        annotations = [a for a in self.annotations.values() if a["task"] == task["id"]]
        predictions = self.of(task["id"])
        return {
            "total_annotations": len(annotations),
            "cancelled_annotations": 0,
            "total_predictions": len(predictions),
            "predictions_model_versions": ",".join({p["model_version"] for p in predictions}),
        }

    def _shown(self, task):
        annotations = [a for a in self.annotations.values() if a["task"] == task["id"]]
        predictions = self.of(task["id"])
        scores = [p["score"] for p in predictions if p["model_version"] == self.version]
        shown = self._counts(task) | {
            "predictions_score": sum(scores) / len(scores) if scores else None,
            "draft_exists": task["id"] in self.drafts,
        }
        if request.args["fields"] == "all":
            shown["annotations"] = annotations
        return task | shown

    def _list_predictions(self):
        return jsonify(self.of(int(request.args["task"])))

    def _prediction(self, number):
        found = self.predictions.get(number)
        return (jsonify({}), 404) if found is None else jsonify(found)

    def _create_prediction(self):
        body = request.get_json()
        number = self.add_prediction(
            body["task"], body["result"], body["model_version"], body["score"]
        )
        return jsonify({"id": number}), 201

    def _drop_prediction(self, number):
        del self.predictions[number]
        return Response(status=204)

    def _drop_annotation(self, number):
        del self.annotations[number]
        self.on_event(
            {
                "action": "ANNOTATIONS_DELETED",
                "project": {"id": PROJECT},
                "annotations": [{"id": number}],
            }
        )
        return Response(status=204)

    def _act(self):
        assert request.args["id"] == "predictions_to_annotations"
        body = request.get_json()
        made = []
        for task_id in body["selectedItems"]["included"]:
            for prediction in self.of(task_id):
                if prediction["model_version"] != body["model_version"]:
                    continue
                number = self._next()
                self.annotations[number] = {
                    "id": number,
                    "task": task_id,
                    "result": prediction["result"],
                    "completed_by": 1,
                    "updated_at": _now(),
                    "was_cancelled": False,
                    "parent_prediction": prediction["id"],
                    "lead_time": None,
                    "updated_by": None,
                    "last_action": None,
                }
                made.append(self.annotations[number])
        self._send("ANNOTATIONS_CREATED", *made)
        return jsonify({"detail": f"Created {len(made)} annotations"})

    def _send(self, action, *annotations):
        tasks = [self.tasks[one["task"]] for one in annotations]
        is_bulk = action == "ANNOTATIONS_CREATED"
        self.on_event(
            {
                "action": action,
                "project": {"id": PROJECT, "label_config": self.config},
                "annotation": list(annotations) if is_bulk else annotations[0],
                "task": tasks if is_bulk else tasks[0],
            }
        )

    def _make_view(self):
        number = self._next()
        self.views[number] = {"id": number, "data": request.get_json()["data"]}
        return jsonify(self.views[number]), 201

    def _change_view(self, number):
        self.views[number]["data"] = request.get_json()["data"]
        return jsonify(self.views[number])

    def _next(self):
        self._last += 1
        return self._last


@contextmanager
def served(app):
    """Serves an app on a free port of this machine; yields its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def _now():
    return datetime.now(UTC).isoformat()
