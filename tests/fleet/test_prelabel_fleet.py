"""`calico prelabel --address`: each group once and as on one machine, though an actor is killed."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from contextlib import closing

import pytest
from PIL import Image

from backend.cli.prelabel import load_model, run_job
from backend.cli.prelabel_manifest import read_manifest
from backend.cli.prelabel_parts import PartFolder
from backend.serving.loaded_model import load_base_model
from backend.settings import load_settings
from backend.storage.store import open_store
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from research.bench.ray_fleet import kill, running_fleet
from tests.integration.studio_double import PROJECT
from tests.servers.fleet import register
from tests.unit.cli.prelabel_double import lines_of
from tests.unit.modeling.adapters import save_adapter

pytestmark = pytest.mark.fleet
GROUPS, ACTORS = 12, 3
ROOM = ("--workers", str(ACTORS), "--cpus", "0.4")  # beside the replicas
DRIVER = """
import functools, json, sys
from pathlib import Path
from backend.cli.prelabel import run_pool
from backend.cli.prelabel_fleet import join_fleet
from backend.cli.prelabel_manifest import read_manifest
from backend.cli.prelabel_parts import PartFolder
from tests.unit.cli.prelabel_double import load_gated
manifest, out, log, gate, data, address, workers = sys.argv[1:]
load, parts = functools.partial(load_gated, Path(log), Path(gate)), PartFolder(Path(out))
pool = join_fleet(
    load, parts, Path(data), address, workers=int(workers), at_once=1, cpus=0.4, gpus=0.0
)
print(json.dumps(run_pool(read_manifest(manifest), parts, pool, size=2)))
"""


def draw(folder, number):
    folder.mkdir(parents=True)
    drawn = labeled_group(draw_group(group_rng(Stream.EVALUATION, 19, number), size_px=128))
    for place, pixels in enumerate(drawn.group.images):
        Image.fromarray(pixels).save(folder / f"{place}.png")


def start(fleet, *words):
    return subprocess.Popen(
        [sys.executable, *map(str, words)], env=fleet.environment, stdout=subprocess.PIPE
    )


def report_of(driver):
    output = driver.communicate()[0]
    assert driver.returncode == 0
    return json.loads(output.splitlines()[-1])


def by_group(out):
    documents = list(PartFolder(out).documents())
    found = {one["group"]: one for one in documents}
    assert len(found) == len(documents), "each group once"
    return found


def learned(settings):
    """Registers a version as a project learns it; returns its name."""
    folder = settings.adapters_dir / str(PROJECT) / "learned-1"
    folder.parent.mkdir(parents=True)
    base = load_base_model(settings)
    save_adapter(base.model.adapters.model, folder, base=base.fingerprint)
    with closing(open_store(settings.store_url, is_guest=True)) as store:
        return register(store, folder)


def test_each_group_is_there_once_and_as_on_one_machine(tmp_path):
    images, out, local, log, gate = (
        tmp_path / name for name in ("images", "out", "local", "log", "gate")
    )
    for number in range(GROUPS):
        draw(images / f"{number}", number)
    load = functools.partial(load_model, None, "cpu", 1)
    run_job(read_manifest(str(images)), local, load, workers=1, size=5)
    gate.write_text("0")
    home = tmp_path / "fleet"
    home.mkdir()
    with running_fleet(home, has_nodes=True) as fleet:
        data = home / "head"
        driver = start(fleet, "-c", DRIVER, images, out, log, gate, data, fleet.address, ACTORS)

        def wait_in_all_actors(begun):
            def is_met():
                assert driver.poll() is None, "the job ended"
                return lines_of(log) == begun

            fleet.wait(is_met, f"{begun} groups are begun")

        wait_in_all_actors(ACTORS)
        homes = {
            name
            for name in fleet.holders
            for process in fleet.members(name)
            if process in fleet.answering()
        }
        # Each actor goes on until more than half are begun, and waits in its next group.
        gate.write_text(str(GROUPS // 2))
        wait_in_all_actors(GROUPS // 2 + ACTORS)
        kill(fleet.answering()[:1])
        gate.unlink()
        report = report_of(driver)
        assert (report["done"], report["problems"], report["already"]) == (GROUPS, 0, 0)
        assert by_group(out) == by_group(local)
        assert lines_of(log) == GROUPS + 1, "only the group under way is begun twice"
        assert len(homes) > 1, "actors are on several machines"
        draw(images / "new", GROUPS)
        places = ("--data-dir", data, "--address", fleet.address)
        command = ("-m", "backend.cli", "prelabel", images, *places, *ROOM, "--out")
        again = report_of(start(fleet, *command, out))
        assert (again["done"], again["already"]) == (GROUPS + 1, GROUPS)
        settings = load_settings(data_dir=data, database_url=fleet.database_url)
        version = learned(settings)
        report_of(start(fleet, *command, tmp_path / "learned", "--version", version))
    print(f"\nprelabel: {report['seconds']} s with {ACTORS} actors on {len(homes)} machines")
    assert len(by_group(out)) == GROUPS + 1
    learned_documents = by_group(tmp_path / "learned").values()
    assert [one["version"] for one in learned_documents] == [version] * (GROUPS + 1)
