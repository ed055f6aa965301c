"""Processes of a training that wait for each other, and one of them that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch.distributed import HashStore

from backend.cli.train_peers import CountingStore, Presence, gathered
from backend.errors import ProcessLostError

PATIENT_S = 60.0


class Training:
    """Processes of one training, which are threads of this one."""

    def __init__(self) -> None:
        self.store = HashStore()
        self.processes: list[Presence] = []

    def process(self, silence_s: float, store: CountingStore | None = None) -> Presence:
        rank = len(self.processes)
        one = Presence(
            store or self.store, rank, 2, f"machine-{rank}", report_s=0.02, silence_s=silence_s
        )
        self.processes.append(one)
        return one


@pytest.fixture
def training() -> Iterator[Training]:
    made = Training()
    yield made
    for one in made.processes:
        one.end()


def test_processes_wait_for_each_other_every_time(training: Training) -> None:
    first, second = training.process(PATIENT_S), training.process(PATIENT_S)
    with ThreadPoolExecutor(1) as thread:
        for _ in range(3):
            waiting = thread.submit(first.meet)
            assert not waiting.done()
            second.meet()
            waiting.result(timeout=PATIENT_S)


def test_a_process_that_works_longer_than_a_silence_is_waited_for(training: Training) -> None:
    first, second = training.process(0.3), training.process(PATIENT_S)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(first.meet)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1.0)
        second.meet()
        waiting.result(timeout=PATIENT_S)


def test_a_process_that_is_gone_is_named_with_its_machine(training: Training) -> None:
    first, second = training.process(0.3), training.process(PATIENT_S)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(first.meet)
        while training.store.add("1/reports", 0) == 0:
            pass
        second.end()
        with pytest.raises(ProcessLostError, match=r"^process 1 on machine-1 gave no sign for 0 s"):
            waiting.result(timeout=PATIENT_S)


def test_a_process_that_never_came_is_named(training: Training) -> None:
    with pytest.raises(ProcessLostError, match=r"^process 1 gave no sign"):
        training.process(0.3).meet()


class _BrokenStore:
    """The store of a launcher that was killed."""

    def add(self, key: str, amount: int, /) -> int:
        raise torch.distributed.DistNetworkError("Connection reset by peer\nException raised from")

    def set(self, key: str, value: str, /) -> None:
        pass

    def get(self, key: str, /) -> bytes:
        return b""


class _DeafStore(_BrokenStore):
    """The store of a machine that was switched off: connections stay open, nothing answers."""

    def __init__(self) -> None:
        self.is_released = Event()

    def add(self, key: str, amount: int, /) -> int:
        self.is_released.wait()
        return 0


def test_a_store_that_is_gone_ends_the_waiting(training: Training) -> None:
    said = r"^where they meet cannot be reached any more: Connection reset by peer$"
    with pytest.raises(ProcessLostError, match=said):
        training.process(PATIENT_S, _BrokenStore()).meet()


def test_a_store_that_does_not_answer_ends_the_waiting(training: Training) -> None:
    store = _DeafStore()
    with pytest.raises(ProcessLostError, match=r"^where they meet does not answer for"):
        training.process(0.3, store).meet()
    store.is_released.set()


def test_a_single_process_gathers_its_own_value() -> None:
    assert gathered("value") == ["value"]
