"""Nearly right and broken requests: never a 5xx, and every refusal says what it is about."""

from __future__ import annotations

import pytest

from research.bench.fuzz import FuzzTally, is_clear, make_cases

GROUPS = [("a.png",), ("a.png", "b.png"), ("b.png", "missing.png")]


def run(client, *, count, seed):
    tally = FuzzTally()
    for case in make_cases(count, seed=seed, groups=GROUPS):
        answer = client.open(
            case.path, method=case.method, data=case.body, headers=dict(case.headers)
        )
        tally.add(case, answer.status_code, answer.data)
    return tally


@pytest.mark.parametrize(
    ("count", "seed"),
    [(600, 1), pytest.param(10_000, 2, marks=pytest.mark.slow)],
)
def test_no_request_breaks_the_backend(client, count, seed):
    tally = run(client, count=count, seed=seed)
    assert tally.examples == []
    assert tally.errors_5xx == 0
    assert tally.bad_4xx == 0
    assert tally.figures()["near_valid_share"] >= 0.3
    assert tally.figures()["ok_share"] >= 0.3


def test_a_run_can_be_repeated():
    first, again = (list(make_cases(50, seed=3, groups=GROUPS)) for _ in range(2))
    assert first == again
    assert first != list(make_cases(50, seed=4, groups=GROUPS))


def test_a_tally_sees_what_is_wrong():
    (case,) = make_cases(1, seed=0, groups=GROUPS)
    tally = FuzzTally()
    tally.add(case, 500, b"<html>")
    tally.add(case, 404, b"<html>")
    clear = b'{"error": "NotFoundError", "detail": "d", "field": "path", "request_id": "1"}'
    tally.add(case, 404, clear)
    tally.add(case, 201, b"{}")
    assert (tally.errors_5xx, tally.bad_4xx, tally.ok, tally.requests) == (1, 1, 1, 4)
    assert len(tally.examples) == 2
    assert is_clear(clear)
    assert not is_clear(b'{"error": "X", "detail": "d", "field": null, "request_id": "1"}')
