"""A server with the pages over the database of a `School`, and how tests read its pages."""

from __future__ import annotations

import base64
import html
import json
import re

import numpy as np

from backend.app import create_app
from backend.learning.overview import Overview
from backend.settings import load_settings
from backend.types import FailedTask
from backend.ui.batches import PredictionBatch
from backend.ui.pages import Live, Refreshed, build_pages
from backend.ui.pictures import GroupPictures
from calico_model.types import ImageGroup
from tests.doubles import ModelDouble
from tests.unit.learning.annotated import event
from tests.unit.learning.school import PROJECT

URL = f"/ui/projects/{PROJECT}"
TITLES: dict[int, str] = {}
AUTH = {"Authorization": "Basic " + base64.b64encode(b"user:word").decode()}


class Drawn:
    """Images as large as the masks of `annotated`."""

    def fetch_group(self, task):
        images = tuple(np.full((40, 60, 3), 90, np.uint8) for _ in task.image_urls)
        return ImageGroup(images, tuple(task.image_urls))


class NoModel(ModelDouble):
    version = "fake-00000001"

    def predict(self, group):
        raise AssertionError("a page must not ask the model")


def build_server(tmp_path, school):
    settings = load_settings(data_dir=tmp_path, basic_auth_user="user", basic_auth_password="word")
    made = create_app(settings, load=NoModel, images=Drawn())
    made.register_blueprint(
        build_pages(
            Overview(school.store, school.versions),
            GroupPictures(school.derivation, Drawn()),
            live=lambda: Live("ready", tasks_waiting=3, changes_waiting=0, trainers=1),
            refreshed=lambda project: Refreshed("v9", 4, 10, True) if project == PROJECT else None,
            title=TITLES.get,
            batch=lambda _: PredictionBatch(
                12, 5, 6, (FailedTask(3, "UnreadableMediaError", "broken <"),)
            ),
        )
    )
    return made


def page(client, url=URL, status=200):
    answer = client.get(url, headers=AUTH)
    assert answer.status_code == status, answer.text
    return answer.text


def learn(school, *tasks):
    """Corrections and a training, so that one more version serves."""
    school.correct(*tasks)
    assert school.train() == 1
    return school.current.id


def answered(school, task, version, predicted, left, annotation_id=900):
    """A task that was predicted and corrected."""
    body = b'{"score": 0.5, "regions": %s}' % json.dumps(predicted).encode()
    school.store.keep_prediction(
        f"k{task}", body, project_id=PROJECT, task_id=task, version=version
    )
    school.store.record_events([event(annotation_id, left, task=task)])
    school.derivation.derive(PROJECT)


def token_of(text):
    return re.search(r'name="token" value="(\w+)"', text)[1]


def plain(text):
    """What a page says, without tags and line breaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
