"""F14: replacing all replicas, and more or fewer of them, costs no answer and mixes no versions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from backend.served_model import SHIPPED_WEIGHTS
from research.bench.ray_load import draw_bodies, learn, under_batches, under_load

pytestmark = pytest.mark.fleet
SIZE = ("--click", "2", "--trainers", "0", "--cpus", "0.6")
REQUESTS = 1000


def other_weights(folder: Path) -> Path:
    """The shipped weights with one changed in every tensor of the mask decoder."""
    shutil.copytree(SHIPPED_WEIGHTS, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    changed = [name for name in tensors if "decoder" in name and tensors[name].is_floating_point()]
    assert changed
    for name in changed:
        tensors[name] = tensors[name] * 1.02
    save_file(tensors, file)
    return folder


@pytest.mark.parametrize("sizes", [("3", "2")])
def test_more_and_fewer_replicas_cost_no_answer(fleet, request, sizes):
    clients = request.config.getoption("--clients")
    bodies = draw_bodies(fleet.balancer, tasks=4, clicks=3)
    expected = learn(fleet.balancer, bodies)
    with under_load(fleet.balancer, bodies, expected, clients) as load:
        for size in sizes:
            done = fleet.calico(
                "upgrade", "--click", size, "--trainers", "0", "--cpus", "0.4", "--keep-web"
            )
            assert done.returncode == 0, done.stderr[-2000:]
            fleet.wait(lambda size=size: len(fleet.replicas()) == int(size), f"{size} replicas")
        fleet.wait(lambda: load.asked >= REQUESTS, "requests")
    print(
        f"\n2 to 3 to 2: {load.asked} requests, {len(load.failures)} failed, "
        f"worst {load.worst_s:.1f} s"
    )
    assert not load.failures, load.failures[:5]


def test_batch_replicas_come_and_go_with_the_work_and_cost_no_answer(fleet, request):
    clients = request.config.getoption("--clients")
    bodies = draw_bodies(fleet.balancer, tasks=4, clicks=3)
    expected = learn(fleet.balancer, bodies)
    size = ("--click", "2", "--batch", "1", "--most-batch", "3", "--cpus", "0.4")
    done = fleet.calico("upgrade", *size, "--trainers", "0", "--keep-web")
    assert done.returncode == 0, done.stderr[-2000:]
    with under_load(fleet.balancer, bodies, expected, clients // 2) as load:
        with under_batches(fleet.balancer, clients) as batches:
            for count in (1, 3):
                fleet.wait(lambda count=count: len(fleet.batch_replicas()) == count, "batch")
            before = batches.asked
            fleet.wait(lambda: batches.asked >= before + 4 * clients, "requests to three replicas")
        fleet.wait(lambda: len(fleet.batch_replicas()) == 1, "one batch replica again")
        fleet.wait(lambda: load.asked + batches.asked >= REQUESTS, "requests")
    print(
        f"\n1 to 3 to 1: {load.asked} clicks, worst {load.worst_s:.1f} s, and {batches.asked} "
        f"requests for batches, {len(load.failures) + len(batches.failures)} failed"
    )
    assert not load.failures, load.failures[:5]
    assert not batches.failures, batches.failures[:5]
    assert len(batches.masks) == 6
    assert all(batches.masks.values())


def test_an_update_to_other_weights_mixes_no_versions(fleet, request, tmp_path):
    clients = request.config.getoption("--clients")
    bodies = draw_bodies(fleet.balancer, tasks=4, clicks=3)
    expected = learn(fleet.balancer, bodies)
    weights = str(other_weights(tmp_path / "weights"))
    # Both versions are known before: first all is asked of the new one, then it is taken back.
    for variables in ({"CALICO_WEIGHTS": weights}, {}):
        done = fleet.calico("upgrade", *SIZE, "--keep-web", **variables)
        assert done.returncode == 0, done.stderr[-2000:]
        for known, found in zip(expected, learn(fleet.balancer, bodies), strict=True):
            assert known.items() <= (known | found).items()
            known |= found
    assert {len(known) for known in expected} == {2}
    with under_load(fleet.balancer, bodies, expected, clients) as load:
        done = fleet.calico("upgrade", *SIZE, CALICO_WEIGHTS=weights)
        assert done.returncode == 0, done.stderr[-2000:]
        fleet.wait(fleet.is_whole, "the web servers are back")
        fleet.wait(lambda: load.asked >= REQUESTS, "requests")
    print(
        f"\nupdate: {load.asked} requests, {len(load.failures)} failed, "
        f"worst {load.worst_s:.1f} s, versions {sorted(load.versions)}"
    )
    assert not load.failures, load.failures[:5]
    assert len(load.versions) == 2
