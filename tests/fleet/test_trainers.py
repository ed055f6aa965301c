"""F19: a trainer that is killed in the middle of a run costs its project at most a lease."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import psutil
import pytest

from backend.label_studio.label_config import parse_label_config
from backend.learning.training_runs import LEASE_S, RunRepository
from backend.storage.store import open_store
from backend.types import RegionOrigin
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.types import RegionKind
from research.bench.ray_fleet import kill, running_fleet
from research.label_studio.editor import (
    Drawn,
    SimulatedProject,
    annotation_event,
    open_config,
    training_event,
)

pytestmark = pytest.mark.fleet

PROJECT = SimulatedProject(4, open_config(list(RegionKind)))
TASKS = 8


def teach(server):
    """Draws annotations of a few tasks, and presses the training button."""
    for number in range(1, TASKS + 1):
        drawn = draw_group(group_rng(Stream.EVALUATION, 3, number), group_size=2, size_px=128)
        labeled = labeled_group(drawn)
        regions = [
            Drawn(f"region{place:04}", part, RegionOrigin.MANUAL)
            for place, part in enumerate(labeled.parts)
        ]
        event = annotation_event(
            PROJECT,
            number,
            server.keep_files(labeled.group.images, f"taught-{number}"),
            regions,
            schema=parse_label_config(PROJECT.label_config),
            annotation_id=number,
            updated_at=datetime.now(UTC),
            parent_prediction_id=None,
        )
        post(server, event)
    post(server, training_event(PROJECT))


def post(server, body):
    headers = {"Content-Type": "application/json"}
    assert server.ask("POST", "/webhook", msgspec.json.encode(body), headers).status in (200, 201)


def test_a_killed_trainers_run_is_resumed_and_never_runs_twice(tmp_path):
    with running_fleet(tmp_path, {"CALICO_TRAIN_SECONDS": "45"}, trainers=2) as fleet:
        store = open_store(fleet.database_url, is_guest=True)
        runs = RunRepository(store)
        fleet.wait(lambda: len(fleet.trainers()) == 2, "two trainers")
        teach(fleet.web)
        fleet.wait(runs.running, "a run")
        (run,) = runs.running()
        process = int(run.owner.split("/")[1])
        victims = [one for one in fleet.trainers() if process in {c.pid for c in one.children()}]
        began = time.monotonic()
        kill(victims)

        def is_resumed():
            under_way = runs.running()
            assert len(under_way) <= 1
            return any(one.owner != run.owner for one in under_way)

        seconds = fleet.wait(is_resumed, "the run goes on", LEASE_S + 60)
        fleet.wait(lambda: len(fleet.trainers()) == 2, "the trainer is back")
        print(f"\ntrainer: resumed after {seconds:.1f} s, {time.monotonic() - began:.1f} s to two")
        assert not psutil.pid_exists(process)
        assert len(runs.runs(PROJECT.id)) == 2
        store.close()
    assert seconds <= LEASE_S + 5
