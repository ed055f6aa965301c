"""A whole fleet on this machine; `make test-fleet` installs Ray and runs these tests.

`--kills 20 --clients 8` is the full size; the default is what two busy cores can do.
"""

from __future__ import annotations

import pytest

from research.bench.ray_fleet import RunningFleet, running_fleet


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=2, help="kills of every kind of process")
    parser.addoption("--clients", type=int, default=4, help="clients at once")
    parser.addoption("--pairs", type=int, default=40, help="pairs of requests to compare")


@pytest.fixture(scope="session")
def fleet(tmp_path_factory) -> RunningFleet:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as started:
        yield started
