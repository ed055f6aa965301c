"""`calico bench fuzz`: requests that are nearly right, and broken ones, against a real server.

Cases are made from real requests, by seed. Each says whether it is near-valid (a real request, or
one with a single change), so that a run can show that it reached past the first check.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any

import msgspec
import typer

from backend.cli.progress import progress_bar
from research.bench.server import JSON_HEADERS, running_server
from research.label_studio.sample import (
    JsonObject,
    click_body,
    deletion_body,
    event_body,
    predict_body,
    setup_body,
    training_body,
)

_ODD_VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 7, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, float("inf"),
    "", " ", "0", "-1", "null", "é😀\u202e", "\u0000", "../../etc/passwd", "<View>", "x" * 5000,
    "14.x", "http://169.254.169.254/", "file:///etc/passwd", "2026-13-45T99:99:99Z",
    [], [[]], [None], {}, {"id": None}, {"": {}}, [1, "2", {}],
)  # fmt: skip
_PATHS = ("/", "/train", "/predict/", "/setup/x", "/webhook%00", "/..%2f", "//health", "/%ff")
_METHODS = ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")
_HEADERS = (
    {"Content-Type": "text/plain"},
    {"Content-Type": "multipart/form-data; boundary="},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Encoding": "gzip"},
    {"Authorization": "Basic \xff\xfe"},
    {"X-Request-ID": "\xe9" * 100},
    {"Accept": "text/html"},
)


def bench_fuzz(
    requests: Annotated[
        int, typer.Option("--requests", min=1, help="Number of requests.")
    ] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the requests.")] = 0,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Model folder.")
    ] = None,
) -> None:
    """Send broken requests to the backend.

    A real gunicorn server with the real model runs on loopback. The exit status is 1 if any answer
    was a 5xx, or a 4xx that does not name error, detail, field and request id.

    Example: calico bench fuzz --requests 10000

    The last line is JSON.
    """
    tally = FuzzTally()
    with running_server(weights) as server:
        server.wait_for_model()
        a, b, c = server.draw_files(3)
        cases = make_cases(requests, seed=seed, groups=[(a,), (a, b), (b, c), (a, b, c)])
        with progress_bar("requests", requests) as show:
            for case in cases:
                reply = server.ask(case.method, case.path, case.body, case.headers)
                tally.add(case, reply.status, reply.body)
                show(tally.requests)
    for example in tally.examples:
        typer.echo(example)
    typer.echo(json.dumps(tally.figures()))
    if tally.errors_5xx or tally.bad_4xx:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        is_near_valid: a real request, or one with a single change in its JSON.
    """

    method: str
    path: str
    body: bytes
    is_near_valid: bool
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class FuzzTally:
    """Counts of requests and of their answers, with examples of forbidden answers."""

    requests: int = 0
    near_valid: int = 0
    ok: int = 0
    errors_5xx: int = 0
    bad_4xx: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, case: Case, status: int, body: bytes) -> None:
        """Counts one answer; keeps the first ten forbidden ones as examples."""
        self.requests += 1
        self.near_valid += case.is_near_valid
        self.ok += 200 <= status < 300
        is_bad = 400 <= status < 500 and not is_clear(body)
        self.bad_4xx += is_bad
        self.errors_5xx += status >= 500
        if (is_bad or status >= 500) and len(self.examples) < 10:
            sent, came = case.body[:300], body[:300]
            self.examples.append(f"{case.method} {case.path} {sent!r} -> {status} {came!r}")

    def figures(self) -> dict[str, float | int]:
        """The figures of the last line."""
        return {
            "requests": self.requests,
            "near_valid_share": round(self.near_valid / max(self.requests, 1), 3),
            "ok_share": round(self.ok / max(self.requests, 1), 3),
            "errors_5xx": self.errors_5xx,
            "bad_4xx": self.bad_4xx,
        }


def is_clear(body: bytes) -> bool:
    """Whether the answer to a refused request is JSON with error, detail, field and request id."""
    try:
        problem = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    keys = ("error", "detail", "field", "request_id")
    return isinstance(problem, dict) and all(
        isinstance(problem.get(key), str) and problem[key] for key in keys
    )


def make_cases(count: int, *, seed: int, groups: Sequence[Sequence[str]]) -> Iterator[Case]:
    """Yields cases; equal arguments give equal cases.

    Args:
        count: how many.
        seed: which.
        groups: image URLs of groups that the backend can read.
    """
    random = Random(seed)
    kinds = (_valid, _changed_once, _changed_often, _corrupted, _stray)
    for number in range(count):
        (kind,) = random.choices(kinds, weights=(25, 35, 15, 15, 10))
        yield kind(random, *_sample(random, number, groups))


def _sample(random: Random, number: int, groups: Sequence[Sequence[str]]) -> tuple[str, JsonObject]:
    """Path and body of a request as Label Studio sends it."""
    urls = random.choice(groups)
    makers: tuple[Callable[[], tuple[str, JsonObject]], ...] = (
        lambda: ("/setup", setup_body()),
        lambda: ("/predict", predict_body([urls], first_task_id=random.randrange(5))),
        lambda: ("/predict", predict_body([urls, random.choice(groups)])),
        lambda: ("/predict", click_body(urls, x=random.random() * 100, y=50.0)),
        lambda: ("/webhook", event_body(number, rle=[random.randrange(256) for _ in range(40)])),
        lambda: ("/webhook", deletion_body(number)),
        lambda: ("/webhook", training_body()),
    )
    return random.choice(makers)()


def _valid(_random: Random, path: str, body: JsonObject) -> Case:
    return Case("POST", path, _encode(body), True, JSON_HEADERS)


def _changed_once(random: Random, path: str, body: JsonObject) -> Case:
    return Case("POST", path, _encode(_change(random, body)), True, JSON_HEADERS)


def _changed_often(random: Random, path: str, body: JsonObject) -> Case:
    for _ in range(random.randint(2, 6)):
        body = _change(random, body)
    return Case("POST", path, _encode(body), False, JSON_HEADERS)


def _corrupted(random: Random, path: str, body: JsonObject) -> Case:
    data = bytearray(_encode(body))
    match random.randrange(5):
        case 0:
            del data[random.randrange(len(data)) :]
        case 1:
            for _ in range(random.randint(1, 8)):
                data[random.randrange(len(data))] = random.randrange(256)
        case 2:
            data[0:0] = random.randbytes(random.randint(1, 4))
        case 3:
            place = random.randrange(len(data))
            data[place:place] = random.choice((b"[", b"{", b'{"a":')) * 50_000
        case _:
            data = bytearray(random.randbytes(random.randrange(200)))
    return Case("POST", path, bytes(data), False, JSON_HEADERS)


def _stray(random: Random, path: str, body: JsonObject) -> Case:
    data = _encode(body)
    match random.randrange(3):
        case 0:
            return Case("POST", random.choice(_PATHS), data, False, JSON_HEADERS)
        case 1:
            return Case(random.choice(_METHODS), path, data, False, JSON_HEADERS)
        case _:
            return Case("POST", path, data, False, JSON_HEADERS | random.choice(_HEADERS))


def _change(random: Random, body: JsonObject) -> JsonObject:
    """A copy in which one value is deleted, replaced, renamed, repeated or nested deeply."""
    copy = deepcopy(body)
    places = list(_places(copy))
    if not places:
        return {"": random.choice(_ODD_VALUES)}
    parent, key = random.choice(places)
    match random.randrange(6):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[f"{key}_"] = parent.pop(key)
        case 2 if isinstance(parent, list):
            parent.extend([parent[key]] * random.choice((1, 8, 300)))
        case 3:
            for _ in range(random.choice((1, 10, 60))):
                parent[key] = [parent[key]]
        case _:
            parent[key] = deepcopy(random.choice(_ODD_VALUES))
    return copy


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys or indices."""
    if isinstance(value, dict):
        steps: list[object] = list(value)
    elif isinstance(value, list):
        steps = list(range(min(len(value), 20)))
    else:
        return
    for step in steps:
        yield value, step
        yield from _places(value[step])


def _encode(body: JsonObject) -> bytes:
    # json writes values that msgspec refuses: Infinity, integers of any size, lone surrogates.
    return json.dumps(body).encode()
