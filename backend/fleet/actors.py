"""Actors of a large job, on all machines of a fleet; each answers one question at a time.

Knows nothing of what is asked. An actor that dies is not started again by Ray: who asked it decides
what to do with its question.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from backend.errors import BackendError, FleetError
from backend.fleet.connection import join_cluster
from backend.settings import Settings
from calico_model.errors import CalicoError

_log = logging.getLogger(__name__)
_LONGEST = 300  # letters of a reason


@dataclass(frozen=True)
class ActorAnswer:
    """What became of one question.

    Attributes:
        actor: number of the actor.
        value: the answer.
        machine: address of the actor's machine; empty if it died.
        failure: why there is no answer, though the actor lives.
        death: why there is no actor any more.
    """

    actor: int
    value: Any = None
    machine: str = ""
    failure: str | None = None
    death: str | None = None


class AnsweringActor:
    """The process of one actor.

    Args:
        begin: makes what answers questions, with the first one; importable on all machines.
    """

    def __init__(self, begin: Callable[[], Callable[[Any], Any]]) -> None:
        self._begin = begin
        self._answer: Callable[[Any], Any] | None = None

    def ask(self, question: object) -> tuple[str, str | None, object]:
        """Returns the address of the machine, why there is no answer, and the answer."""
        import ray

        machine = str(ray.util.get_node_ip_address())
        try:
            if self._answer is None:
                self._answer = self._begin()
            return machine, None, self._answer(question)
        except (BackendError, CalicoError) as error:
            return machine, str(error), None
        except Exception as error:  # told where somebody reads it
            _log.exception("a large job", extra={"event": "actor_failed"})
            return machine, f"{type(error).__name__}: {error}", None


class FleetActors:
    """The actors of one job; they end with it, however it ends.

    Args:
        settings: with the address of the fleet; this machine has to be part of it.
        begin: makes in an actor what answers questions.
        cpus: processor cores that one actor counts for.
        gpus: graphics cards that one actor counts for.

    Raises:
        FleetError: the extra `fleet` is not installed, or the fleet cannot be joined from here.
    """

    def __init__(
        self,
        settings: Settings,
        begin: Callable[[], Callable[[Any], Any]],
        *,
        cpus: float,
        gpus: float,
    ) -> None:
        try:
            join_cluster(settings)
        except FleetError:
            raise
        except Exception as error:  # Ray has many
            raise FleetError(
                f"--address: {settings.fleet_address} cannot be joined from here; run it on the "
                f"head, or where `calico fleet join` runs: {_in_one_line(error)}"
            ) from error
        import ray

        self._ray: Any = ray
        self._begin, self._wanted = begin, {"CPU": cpus, "GPU": gpus}
        self._kind: Any = ray.remote(AnsweringActor).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}
        self._started = 0

    @property
    def room(self) -> int:
        """How many more actors the machines have free cores and cards for."""
        from ray._private.state import available_resources_per_node

        wanted = [(what, each) for what, each in self._wanted.items() if each]
        return sum(
            min(int(free.get(what, 0.0) / each + 1e-6) for what, each in wanted)
            for free in available_resources_per_node().values()
        )

    def start(self) -> int:
        """Starts an actor, once there is room for it; returns its number."""
        self._started += 1
        self._actors[self._started] = self._kind.remote(self._begin)
        return self._started

    def submit(self, actor: int, question: object) -> None:
        """Asks an actor."""
        self._asked[self._actors[actor].ask.remote(question)] = actor

    def ready(self, timeout_s: float) -> Sequence[ActorAnswer]:
        """Returns the answers that are there; waits for the first one, but not for ever."""
        if not self._asked:
            return ()
        every = list(self._asked)
        found, _ = self._ray.wait(every, num_returns=1, timeout=timeout_s)
        if found:  # those that came with it
            found, _ = self._ray.wait(every, num_returns=len(every), timeout=0)
        return [self._answer(reference) for reference in found]

    def close(self) -> None:
        """Ends all actors; questions under way have no answer."""
        for number in list(self._actors):
            self._end(number)
        self._asked.clear()

    def _answer(self, reference: Any) -> ActorAnswer:
        number = self._asked.pop(reference)
        try:
            machine, failure, value = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._end(number)  # it may live behind a network that is cut
            return ActorAnswer(number, death=_in_one_line(error))
        return ActorAnswer(number, value, machine, failure)

    def _end(self, number: int) -> None:
        with suppress(Exception):  # it is gone already
            self._ray.kill(self._actors.pop(number), no_restart=True)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST]
