"""A click or a box over HTTP with a source beside the model: small networks of the real classes."""

from __future__ import annotations

import numpy as np
import pytest

from backend.learning.derivation import Derivation
from backend.learning.overview import Overview
from backend.learning.repository import CorrectionRepository
from backend.learning.source_learner import SourceLearner
from backend.storage.source_trust import SourceAnswerStore
from backend.storage.versions import Versions
from backend.ui.status_routes import build_status_routes
from calico_model.inference.prompt import Click, MaskPrompt
from calico_model.sources.source import Ability
from calico_model.sources.trust import TrustCounts, TrustKey
from calico_model.types import ImageGroup
from tests.doubles import refined
from tests.integration.conftest import payload
from tests.integration.fake_predictor import FakePredictor
from tests.integration.test_http_click import asked, mask_of, shapes
from tests.unit.learning import annotated
from tests.unit.sources import test_sam, test_sam2
from tests.unit.sources.small_models import opened

SIZE = (480, 640)
FIRST_TASK = 1000  # of those with images of their own
SAVERS = {
    "sam": lambda folder: test_sam.save(folder, is_hq=False),
    "sam_hq": lambda folder: test_sam.save(folder, is_hq=True),
    "sam2": lambda folder: test_sam2.save(folder, "sam2"),
    "edgetam": lambda folder: test_sam2.save(folder, "edgetam"),
    "sam3-tracker": lambda folder: test_sam2.save(folder, "sam3_tracker"),
}


class Apart(FakePredictor):
    """Outlines a corner that no source means, and finds nothing elsewhere."""

    def refine(self, group, image_index, prompt, group_prediction=None):
        mask = np.zeros(group.sizes_hw[image_index], bool)
        mask[:2, :2] = True
        return refined(mask, iou=0.5, meant=None)

    def transfer(self, group, part, group_prediction):
        return []


class Noise:
    """Images of the size that the captured prompts were made on."""

    def fetch_group(self, task):
        rng = np.random.default_rng(max(0, (task.id or 0) - FIRST_TASK))
        drawn = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in task.image_urls]
        return ImageGroup(tuple(drawn), tuple(f"i{k}" for k in range(len(drawn))))


@pytest.fixture
def predictor():
    return Apart()


@pytest.fixture
def images():
    return Noise()


@pytest.fixture
def refines():
    return True


@pytest.fixture(scope="module", params=SAVERS)
def folder(request, tmp_path_factory):
    saved = tmp_path_factory.mktemp("hub") / request.param
    SAVERS[request.param](saved)
    return saved


@pytest.fixture
def served(make_app):
    """Builds an app with sources; a click waits for them as long as it takes."""

    def serve(*entries, **settings):
        app = make_app(sources=",".join(entries), **({"source_budget_s": 60.0} | settings))
        components = app.extensions["calico"]
        components.host.wait(30)
        components.sources.wait_until_loaded(120)
        return app, components

    return serve


def entry(folder):
    return f"{folder.name}={folder}"


def first_click():
    body = payload("predict_interactive_ui_keypoints_repeater")
    prompts = body["params"]["context"]["result"]
    body["params"]["context"]["result"] = [p for p in prompts if p["is_positive"]][:1]
    return body


def click_of(body):
    (prompt,) = body["params"]["context"]["result"]
    value = prompt["value"]
    return prompt.get("item_index", 0), Click(
        value["x"] / 100 * prompt["original_width"], value["y"] / 100 * prompt["original_height"]
    )


def test_a_click_is_answered_with_the_mask_of_the_source(served, folder, images):
    app, components = served(entry(folder))
    body = first_click()
    (shape,) = shapes(asked(app.test_client(), body)).values()
    index, click = click_of(body)
    source = opened(folder, folder.name)
    image = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)[index]
    best = source.segment_prompt(source.encode(image), MaskPrompt((click,)))[0]
    assert best.mask.any()
    assert np.array_equal(mask_of(shape), best.mask)
    (status,) = components.sources.status()
    assert (status.name, status.state) == (folder.name, "ready")
    assert status.asked["answered"] == 1


def test_encodings_stay_below_the_configured_memory(served, folder):
    one = opened(folder, folder.name).encode(np.zeros((*SIZE, 3), np.uint8)).bytes
    app, components = served(entry(folder), source_cache_bytes=one)
    client = app.test_client()
    bodies = [first_click(), first_click()]
    bodies[1]["params"]["context"]["result"][0]["item_index"] = 1
    for body in bodies * 2:
        asked(client, body)
        assert components.sources.cached_bytes <= one


def test_a_folder_that_cannot_be_read_leaves_the_model_alone_and_says_why(served, tmp_path):
    app, components = served(f"broken={tmp_path / 'nothing'}")
    (shape,) = shapes(asked(app.test_client(), first_click())).values()
    assert mask_of(shape).sum() == 4
    (status,) = components.sources.status()
    assert status.state == "failed"
    assert "expected a folder" in status.problem


def test_a_source_that_fails_is_left_out_and_counted(served, folder, monkeypatch):
    app, components = served(entry(folder))
    monkeypatch.setattr(
        "calico_model.sources.prompted.PromptedSegmenter.segment_prompt",
        lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose")),
    )
    (shape,) = shapes(asked(app.test_client(), first_click())).values()
    assert mask_of(shape).sum() == 4
    assert components.sources.status()[0].asked["failed"] == 1
    assert b'outcome="failed",source="%s"} 1.0' % folder.name.encode() in components.metrics.text()


def test_a_box_is_answered_with_the_mask_of_the_source(served, folder):
    app, components = served(entry(folder))
    found = shapes(asked(app.test_client(), payload("predict_interactive_ui_rectangle_repeater")))
    assert any(mask_of(shape).sum() != 4 for shape in found.values())
    assert components.sources.status()[0].asked["answered"] >= 1


@pytest.mark.parametrize("folder", ["sam"], indirect=True)
def test_a_source_that_was_wrong_ten_times_is_not_believed_and_every_click_is_recorded(
    served, folder
):
    app, components = served(entry(folder))
    client, body = app.test_client(), first_click()
    answers = SourceAnswerStore(components.store)
    (shape,) = shapes(asked(client, body)).values()
    assert mask_of(shape).sum() != 4
    components.store.write(lambda connection: None, timeout_s=30)
    (project,) = answers.projects()
    ((task, _),) = answers.answered(project).items()
    (recorded,) = answers.answers(project, task)
    assert recorded.asked == ("calico", folder.name)

    bad, good = TrustCounts(10, 0, 0.0, 10), TrustCounts(10, 10, 9.0, 10)
    counts = {
        TrustKey(folder.name, Ability.CLICK, "any"): bad,
        TrustKey("calico", Ability.CLICK, "any"): good,
    }
    answers.judge(project, task, "state", counts)
    other, _ = served(
        entry(folder)
    )  # a second server on the same database, which has read no trust
    (shape,) = shapes(asked(other.test_client(), body)).values()
    assert mask_of(shape).sum() == 4


def submit(client, body, mask):
    """Posts the annotation of a clicked task as Label Studio does."""
    task = body["tasks"][0]
    sent = annotated.body(
        task["id"],
        annotated.results(("r", mask, "handle")),
        task=task["id"],
        project=task["project"],
    )
    sent["task"]["data"] = task["data"]
    assert client.post("/webhook", json=sent).status_code == 201


@pytest.mark.parametrize("folder", ["sam"], indirect=True)
def test_submitted_annotations_teach_whom_the_next_click_believes(served, folder):
    app, components = served(entry(folder))
    client = app.test_client()
    own = np.zeros(SIZE, bool)
    own[:2, :2] = True  # what the model outlines
    for number in range(1, 11):
        body = first_click()
        body["tasks"][0]["id"] = FIRST_TASK + number
        (shape,) = shapes(asked(client, body)).values()
        assert not np.array_equal(mask_of(shape), own)  # the added source is believed at first
        submit(client, body, own)
    project = body["tasks"][0]["project"]
    derivation = Derivation(CorrectionRepository(components.store))
    derivation.derive(project)
    learner = SourceLearner(components.store, derivation)
    assert learner.learn(project) == 10
    assert learner.learn(project) == 0

    routes = build_status_routes(
        components.store, Overview(components.store, Versions(components.store, folder / "none"))
    )
    other, _ = served(entry(folder))
    other.register_blueprint(routes)
    (state,) = other.test_client().get(f"/status/{project}").get_json()["projects"]
    standings = {row["source"]: row for row in state["source_trust"]}
    assert standings[folder.name]["is_silent"]
    assert standings["calico"]["kept"] == 10
    body["tasks"][0]["id"] = FIRST_TASK + 20
    (shape,) = shapes(asked(other.test_client(), body)).values()
    assert np.array_equal(mask_of(shape), own)
