"""What `calico bench photos` makes of a set's size and of its curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_model.errors import InvalidConfigError
from research.bench.photos import _baseline, _figures, _means, _points_for, bench_photos
from research.simulation.command import base_groups
from research.simulation.protocol import Point


def _point(corrections: int, recall: float, clicks: float) -> Point:
    return Point(
        corrections,
        recall / 2,
        recall,
        80.0,
        90.0,
        40.0 + corrections,
        clicks,
        10.0,
        "v",
        recall + 1,
    )


def test_a_small_set_is_corrected_as_far_as_it_goes() -> None:
    assert _points_for(60, (0, 5, 20), 20) == (0, 5, 20)
    assert _points_for(16, (0, 5, 20), 20) == (0, 5, 10)
    assert _points_for(7, (0, 5, 20), 20) is None


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "cars").mkdir()
    (tmp_path / "cars" / "annotations.json").write_text("{}")
    with pytest.raises(InvalidConfigError, match=r"--only: expected .* \(cars\), got boats"):
        bench_photos(tmp_path, only=["cars", "boats"])


def test_figures_are_those_of_the_curve_and_of_the_baseline() -> None:
    curve = [_point(0, 0.0, 0.0), _point(5, 30.0, -4.0), _point(20, 50.0, 6.0)]
    baseline = {"recall_by_kind": {"object": 30.0, "common": 40.0}, "recall": 33.0}
    early = {"recall_by_kind": {"object": 10.0, "common": 0.0}, "recall": 4.0}
    found = _figures((0, 5, 20), curve, {5: early, 20: baseline})
    assert (found["recall_0"], found["recall_5"], found["recall_20"]) == (0.0, 30.0, 50.0)
    assert found["recall_parts_20"] == 51.0
    assert (found["recipe_5"], found["recipe_parts_5"]) == (5.0, 4.0)
    assert (found["recipe_20"], found["recipe_parts_20"]) == (35.0, 33.0)
    assert (found["clicks_saved_min"], found["clicks_saved_20"]) == (-4.0, 6.0)
    assert found["first_version_s"] == 60.0


def test_a_small_set_shows_its_last_baseline_in_the_last_column() -> None:
    curve = [_point(0, 0.0, 0.0), _point(5, 30.0, 0.0), _point(10, 50.0, 0.0)]
    last = {"recall_by_kind": {"object": 30.0, "common": 40.0}, "recall": 33.0}
    found = _figures((0, 5, 20), curve, {5: None, 10: last})
    assert (found["recipe_5"], found["recipe_20"]) == (None, 35.0)


def test_the_mean_leaves_out_what_was_not_measured() -> None:
    rows: list[dict[str, float | None]] = [
        {"recall_20": 50.0, "recipe_20": None},
        {"recall_20": 40.0, "recipe_20": 30.0},
    ]
    assert _means(rows) == {"recall_20": 45.0, "recipe_20": 30.0}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import json, sys; print('seen'); print(json.dumps({'recall': len(sys.argv)}))", 8),
        ("raise SystemExit('no such package')", None),
    ],
)
def test_a_baseline_that_fails_leaves_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, expected: int | None
) -> None:
    _, groups = base_groups(None, replay=0, measured=2)
    path = tmp_path / "recipe.py"
    path.write_text(script)
    report = _baseline(path, groups, 1)
    assert (report and report["recall"]) == expected
    assert ("no such package" in capsys.readouterr().err) == (expected is None)
