"""The benchmark of the full size, run on the small one: its code works, its numbers add up."""

from __future__ import annotations

import json

import pytest

from tests.bench.bench_full_size import main


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bench_runs_all_stages(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--preset tiny --device cpu --images 2 --repeats 1 --tokens 3"
    main([*options.split(), "--dtype", dtype])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert report["model"] == "calico-tiny"
    assert report["dtype"] == dtype
    assert (report["images"], report["answer_tokens"], report["masks"]) == (2, 3, 10)
    stages = report["ms"]
    assert min(stages.values()) > 0
    assert report["ratio"] == pytest.approx(
        stages["three_at_once"] / stages["three_runs"], rel=0.01
    )
    assert report["tokens_per_s_one"] == pytest.approx(3e3 / stages["decode_one"], rel=0.02)
    assert report["share_of_floor_one"] > 0
    assert report["peak_mib"] > 0
