"""What `calico bench start` refuses: with half a checkout, this release would measure itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_model.errors import InvalidConfigError
from research.bench.start import bench_start


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ([], "backend/__init__.py"),
        (["backend/__init__.py", "backend/cli/__init__.py"], "backend/cli/__main__.py"),
        (["backend/__init__.py", "backend/cli/__main__.py"], "calico_model/__init__.py"),
    ],
)
def test_half_a_checkout_is_refused_with_what_it_lacks(
    files: list[str], missing: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = f"--beside: expected a checkout of this project, got {tmp_path} without {missing}"
    with pytest.raises(InvalidConfigError, match=expected):
        bench_start(tmp_path)
