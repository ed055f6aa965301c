"""Clients that open tasks and click on them, and know the right answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from research.bench.chains import Chain, draw_chain
from research.bench.server import JSON_HEADERS, BenchError, BenchServer, ServerReply
from research.label_studio.sample import predict_body


def draw_bodies(server: BenchServer, tasks: int, clicks: int) -> list[bytes]:
    """Requests that open tasks, each followed by its clicks; the images are written first."""
    chains: list[Chain] = [draw_chain(number, clicks) for number in range(tasks)]
    return [body for chain in chains for body in chain.bodies(server)]


def ask(server: BenchServer, body: bytes) -> tuple[str, bytes]:
    """Returns version and body of an answer.

    Raises:
        BenchError: there is none, or it says that a task could not be predicted.
    """
    reply = server.ask("POST", "/predict", body, JSON_HEADERS)
    if reply.status != 200 or b'"problem"' in reply.body or b'"error"' in reply.body:
        raise BenchError(f"answered {reply.status}: {reply.body[:300]!r}")
    results = json.loads(reply.body)["results"]
    if not results or "result" not in results[0]:
        raise BenchError(f"answered not yet: {reply.body[:300]!r}")
    return results[0]["model_version"], reply.body


@dataclass
class FleetLoad:
    """What clients have seen; threads share it.

    Attributes:
        expected: right bodies of each request, by version.
        asked: requests.
        failures: one line for each request without a right answer.
        worst_s: slowest answer.
    """

    expected: Sequence[dict[str, bytes]]
    asked: int = 0
    failures: list[str] = field(default_factory=list)
    worst_s: float = 0.0
    versions: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, number: int, seconds: float, version: str, body: bytes | None) -> None:
        """Compares an answer; None for none."""
        with self.lock:
            self.asked += 1
            self.worst_s = max(self.worst_s, seconds)
            self.versions.add(version)
            if body is None:
                self.failures.append(f"request {number}: {version}")
            elif self.expected[number].get(version) != body:
                self.failures.append(f"request {number}: {self._difference(number, version, body)}")

    def _difference(self, number: int, version: str, body: bytes) -> str:
        """Says how an answer is wrong."""
        known = self.expected[number]
        for other, right in known.items():
            if right.replace(other.encode(), b"") == body.replace(version.encode(), b""):
                return f"the answer of {other}, stamped {version}"
        if version not in known:
            return f"nobody has seen an answer of {version}"
        both = list(zip(known[version], body, strict=False))
        first = next((place for place, (a, b) in enumerate(both) if a != b), len(both))
        shown = slice(max(first - 60, 0), first + 60)
        return (
            f"not the answer of {version}: {len(body)} bytes and not {len(known[version])}, from "
            f"byte {first} on: {body[shown]!r} and not {known[version][shown]!r}"
        )


def learn(server: BenchServer, bodies: Sequence[bytes]) -> list[dict[str, bytes]]:
    """Asks every request once; returns what is right from now on."""
    return [dict([ask(server, body)]) for body in bodies]


@contextmanager
def _going_on(
    go_on: Callable[[int], None], clients: int, is_over: threading.Event
) -> Iterator[None]:
    """Runs a thread per client, by number; ends them with the block."""
    threads = [threading.Thread(target=go_on, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@contextmanager
def under_load(
    server: BenchServer, bodies: Sequence[bytes], expected: Sequence[dict[str, bytes]], clients: int
) -> Iterator[FleetLoad]:
    """Asks from several clients at once, over and over, until the block ends."""
    load, is_over = FleetLoad(expected), threading.Event()

    def go_on(client: int) -> None:
        number = client * len(bodies) // clients
        while not is_over.is_set():
            began = time.monotonic()
            try:
                version, body = ask(server, bodies[number])
            except BenchError as error:
                load.note(number, time.monotonic() - began, str(error), None)
            else:
                load.note(number, time.monotonic() - began, version, body)
            number = (number + 1) % len(bodies)

    with _going_on(go_on, clients, is_over):
        yield load


@dataclass
class BatchLoad:
    """What clients have seen that ask about several tasks at once; threads share it.

    Attributes:
        asked: requests.
        failures: one line for each task without a right answer.
        masks: the regions of each group of images, as the first answer about it had them.
    """

    asked: int = 0
    failures: list[str] = field(default_factory=list)
    masks: dict[int, list[object]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, task: int, group: int, result: dict[str, object]) -> None:
        """Compares the regions of a task with those of other tasks with the same pixels."""
        regions = result.get("result")
        if not isinstance(regions, list) or not regions:
            self.fail(task, json.dumps(result)[:300])
            return
        found = [region["value"]["rle"] for region in regions if "rle" in region["value"]]
        with self.lock:
            if self.masks.setdefault(group, found) != found:
                self.failures.append(f"task {task}: other masks than before for equal pixels")

    def fail(self, task: int, reason: str) -> None:
        """Counts a task without an answer."""
        with self.lock:
            self.failures.append(f"task {task}: {reason}")


@contextmanager
def under_batches(server: BenchServer, clients: int, groups: int = 6) -> Iterator[BatchLoad]:
    """Asks about two new tasks at once from several clients, until the block ends.

    Every task has files of its own, so that no kept answer fits; their pixels are those of a few
    groups, so that the answers can be compared.
    """
    load, is_over = BatchLoad(), threading.Event()
    drawn = [draw_chain(500 + number, 1) for number in range(groups)]

    def go_on(client: int) -> None:
        task = 10_000 * (client + 1)
        while not is_over.is_set():
            numbers = (task % groups, (task + 1) % groups)
            urls = [
                server.keep_files(drawn[number].images, f"batch-{task + place}")
                for place, number in enumerate(numbers)
            ]
            body = json.dumps(predict_body(urls, first_task_id=task)).encode()
            try:
                reply = server.ask("POST", "/predict", body, JSON_HEADERS)
            except BenchError as error:
                load.fail(task, str(error))
            else:
                _note_results(load, task, numbers, reply)
            with load.lock:
                load.asked += 1
            task += len(numbers)

    with _going_on(go_on, clients, is_over):
        yield load


def _note_results(load: BatchLoad, task: int, groups: Sequence[int], reply: ServerReply) -> None:
    if reply.status != 200:
        load.fail(task, f"answered {reply.status}: {reply.body[:300]!r}")
        return
    results = json.loads(reply.body)["results"]
    for place, (group, result) in enumerate(zip(groups, results, strict=True)):
        load.note(task + place, group, result)
