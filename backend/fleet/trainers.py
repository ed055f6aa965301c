"""Trainers of a fleet: Ray says where they run, the database what they train.

Each is an actor that keeps one `calico trainer` process alive. A run stays a lease in the database:
when the actor or its machine dies, Ray starts the actor elsewhere, and the lease is taken over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from backend.background import start_trainer
from backend.fleet.connection import NAMESPACE, join_cluster
from backend.serving.metrics import Metrics
from backend.settings import Settings, export_variables, load_settings

_log = logging.getLogger(__name__)
_NAME = "trainer-{number}"
_MOST = 64


class TrainerActor:
    """Keeps a trainer process alive where Ray has put it.

    Args:
        variables: the settings, see `settings.as_variables`.
    """

    def __init__(self, variables: dict[str, str]) -> None:
        export_variables(variables)
        # The process ends when this one does, however it ends.
        self._watch = start_trainer(load_settings(), Metrics())

    def process_id(self) -> int | None:
        """Number of the trainer's process, None while it is started again."""
        return self._watch.process_id

    def close(self) -> None:
        """Ends the trainer; what it was training is begun again by another."""
        self._watch.close()


def place_trainers(
    settings: Settings, variables: dict[str, str], count: int, *, cpus: float, gpus: float
) -> None:
    """Starts trainers, and replaces those that run, one after another.

    Args:
        settings: with the address of the fleet.
        variables: settings of a trainer as environment variables.
        count: how many there are then.
        cpus: processor cores that each counts for.
        gpus: graphics cards that each counts for.
    """
    join_cluster(settings)
    import ray

    kind: Any = ray.remote(TrainerActor)
    for number, actor in running_trainers(settings):
        _end(ray, number, actor)
    for number in range(count):
        kind.options(
            name=_NAME.format(number=number),
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=-1,
            num_cpus=cpus,
            num_gpus=gpus,
        ).remote(variables)


def running_trainers(settings: Settings) -> Iterable[tuple[int, Any]]:
    """Yields number and actor of every trainer there is."""
    join_cluster(settings)
    import ray

    for number in range(_MOST):
        try:
            yield number, ray.get_actor(_NAME.format(number=number), namespace=NAMESPACE)
        except ValueError:
            return


def _end(ray: Any, number: int, actor: Any) -> None:
    try:
        ray.get(actor.close.remote(), timeout=15)
    except Exception:  # it is ended all the same
        _log.warning("trainer %d did not end by itself", number, extra={"event": "trainer_killed"})
    ray.kill(actor, no_restart=True)
