"""The measurement of a large job that is killed, small."""

from __future__ import annotations

import pytest

from research.bench import prelabel_kills
from research.bench.prelabel_kills import share_predicted_once
from research.bench.server import BenchError

pytestmark = pytest.mark.research


@pytest.mark.slow
def test_every_group_of_a_killed_job_is_there_once():
    assert share_predicted_once(8) == 1.0


def test_a_job_that_ends_early_is_told(tmp_path):
    with pytest.raises(BenchError, match="predicted 0 groups, and not 2"):
        share_predicted_once(8, weights=tmp_path / "no weights")


def test_only_whole_lines_of_groups_are_counted(tmp_path):
    (tmp_path / ".incoming").mkdir()
    (tmp_path / "part-a.jsonl").write_text('{"groups": []}\n{}\n{}\n')
    (tmp_path / ".incoming" / "part-b.jsonl").write_text('{"groups": []}\n{}\n{"cut')
    assert prelabel_kills._lines(tmp_path) == 3
