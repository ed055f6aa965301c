"""A small written set, shared by the tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_model.data.synthetic import SceneSplit, write_groups


@pytest.fixture(scope="session")
def written_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    write_groups(folder, groups=6, seed=11, split=SceneSplit.SEEN, group_sizes=(1, 4), size_px=64)
    return folder
