"""A simulated annotator at a backend and a trainer, over its real routes."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import count

import httpx
import numpy as np
import pytest

from backend.app import close_app, create_app
from backend.learning import schedule
from backend.learning.overview import Overview
from backend.learning.rows import Standing
from backend.learning.schedule import RunState, is_held_out
from backend.settings import load_settings
from backend.ui.status_routes import build_status_routes
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, PartMask, RegionKind
from research.label_studio.editor import SimulatedProject, open_config
from research.simulation.live_loop import LiveLoop, LiveLoopError
from research.simulation.protocol import simulate
from tests.doubles import ModelDouble
from tests.unit.learning.school import School

KIND = RegionKind.COMMON_OBJECT
BASE = "calico-tiny-1234"


def labeled(number):
    """A square named rotor, at its place in every image."""
    mask = np.zeros((24, 24), bool)
    mask[4:12, 4:12] = True
    images = tuple(np.full((24, 24, 3), 2 * number + n, np.uint8) for n in range(2))
    parts = tuple(PartMask(n, KIND, "rotor", mask, part_id="object/rotor") for n in range(2))
    return LabeledGroup(ImageGroup(images, ("a", "b")), parts, known=frozenset({KIND}))


class Novice(ModelDouble):
    """Sees every square but calls it a thing, and sees another where nothing is."""

    version = BASE

    def predict(self, group):
        return self.answer("thing", self.version)

    def with_adapter(self, version, folder):
        expert = Novice()
        expert.version = version
        expert.predict = lambda group: self.answer("rotor", version)
        return expert

    @staticmethod
    def answer(name, version):
        parts = [replace(part, label=name, score=0.5) for part in labeled(0).parts]
        nothing = np.zeros((24, 24), bool)
        nothing[20:23, 20:23] = True
        if name == "thing":
            parts.append(PartMask(0, KIND, "ghost", nothing, score=0.5))
        return GroupPrediction(tuple(parts), version)


class Site:
    """A backend in this process, a trainer in a thread."""

    def __init__(self, folder):
        self.school = School(folder)
        self.school.updater.base_version = BASE
        self.files = folder / "files"
        self.files.mkdir()
        settings = load_settings(data_dir=folder, local_files_root=self.files)
        self.app = create_app(settings, load=Novice)
        overview = Overview(self.school.store, self.school.versions)
        self.app.register_blueprint(build_status_routes(self.school.store, overview))
        self.trainer = threading.Thread(
            target=self.school.trainer.run, args=(self.school.stop,), kwargs={"tick_s": 0.01}
        )
        self.client = httpx.Client(
            transport=httpx.WSGITransport(app=self.app), base_url="http://backend"
        )

    def loop(self, project=4, **options):
        return LiveLoop(
            self.client, self.files, SimulatedProject(project, open_config([KIND])), **options
        )

    def close(self):
        self.school.stop.set()
        if self.trainer.is_alive():
            self.trainer.join()
        self.client.close()
        close_app(self.app)
        self.school.store.close()


@pytest.fixture
def site(tmp_path):
    opened = Site(tmp_path)
    yield opened
    opened.close()


def test_a_simulation_learns_over_http(site):
    domain, base = [labeled(n) for n in range(4)], [labeled(40)]
    loop = site.loop()
    loop.import_tasks([*domain, *base])
    site.school.updater.gain = 5.0
    site.trainer.start()
    outcome = simulate(loop, domain, base, points=(0, 1, 2), next_groups=2)
    assert [point.recall for point in outcome.points] == [0.0, 100.0, 100.0]
    versions = [point.version for point in outcome.points]
    assert versions[0] == BASE
    assert versions[1].startswith(f"{BASE}-p4v1-")
    assert versions[2].startswith(f"{BASE}-p4v2-")
    assert [point.update_s > 0 for point in outcome.points] == [False, True, True]
    first, second = site.school.repository.tasks(4)
    assert (first.standing, first.version) == (Standing.CORRECTED, BASE)
    assert (first.tally.relabelled, first.tally.removed, first.tally.accepted) == (2, 1, 0)
    assert (second.version, second.tally.accepted) == (versions[1], 2)


def test_a_rejected_version_is_waited_for_and_not_served(site):
    said = []
    loop = site.loop(on_training=lambda what, share: said.append(what))
    group = labeled(1)
    loop.import_tasks([group])
    site.school.updater.gain = -15.0
    site.trainer.start()
    loop.correct(group, loop.predict(group.group))
    assert loop.learn() > 0
    assert loop.version == BASE
    assert said[-1].startswith(RunState.REJECTED)


def test_held_out_corrections_are_not_waited_for(site, monkeypatch):
    monkeypatch.setattr(schedule, "LEARNED_FIRST", 0)
    project = next(number for number in count(1) if is_held_out(number, 1))
    loop = site.loop(project)
    group = labeled(1)
    loop.import_tasks([group])
    site.trainer.start()
    loop.correct(group, loop.predict(group.group))
    assert loop.learn() == 0
    assert site.school.runs.button_us(project) is None


def test_a_training_that_fails_is_said(site):
    def fail(*_arguments, **_options):
        raise OSError("no space left on device")

    site.school.updater.update = fail
    loop = site.loop()
    group = labeled(1)
    loop.import_tasks([group])
    site.trainer.start()
    loop.correct(group, loop.predict(group.group))
    with pytest.raises(LiveLoopError, match="no space left"):
        loop.learn()


def test_only_what_is_on_the_canvas_can_be_corrected(site):
    loop = site.loop()
    group = labeled(1)
    loop.import_tasks([group])
    prediction = loop.predict(group.group)
    loop.predict(group.group)
    with pytest.raises(LiveLoopError, match="opened last"):
        loop.correct(group, prediction)


class BusyAtFirst(httpx.BaseTransport):
    """Answers the first requests with 503, as a backend whose disk is busy."""

    def __init__(self, transport, times):
        self.transport, self.left = transport, times

    def handle_request(self, request):
        if self.left:
            self.left -= 1
            return httpx.Response(503, json={"error": "BusyError"}, request=request)
        return self.transport.handle_request(request)


def test_a_busy_backend_is_asked_again(site):
    transport = BusyAtFirst(httpx.WSGITransport(app=site.app), times=2)
    site.client = httpx.Client(transport=transport, base_url="http://backend")
    assert site.loop().version == BASE
    assert transport.left == 0


def test_a_backend_that_is_not_there_is_named(site):
    with (
        httpx.Client(base_url="http://127.0.0.1:9", trust_env=False) as nobody,
        pytest.raises(LiveLoopError, match="POST /setup: ConnectError"),
    ):
        LiveLoop(nobody, site.files, SimulatedProject(4, open_config([KIND])))
