"""What several servers are asked to measure them: tasks with clicks, and their empty database."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.types import RgbImage
from research.bench.postgres import find_binaries, running_postgres
from research.bench.server import BenchError, BenchServer
from research.label_studio.sample import clicks_body, predict_body

_SIDE, _GROUP, _SEED = 256, 2, 5


@dataclass(frozen=True, eq=False)
class Chain:
    """A task and the clicks on it.

    Attributes:
        images: of the group.
        places: of the clicks on the first image, in percent.
        task_id: Label Studio's id.
    """

    images: tuple[RgbImage, ...]
    places: tuple[tuple[float, float], ...]
    task_id: int

    def bodies(self, server: BenchServer) -> Iterator[bytes]:
        """Yields the request that opens the task, then one per click with all clicks before it."""
        urls = server.keep_files(self.images, f"task-{self.task_id}")
        opened = predict_body([urls], first_task_id=self.task_id)
        yield json.dumps(opened).encode()
        for count in range(1, len(self.places) + 1):
            clicked = clicks_body(urls, self.places[:count], side=_SIDE)
            yield json.dumps(clicked | {"tasks": opened["tasks"]}).encode()


def draw_chain(number: int, clicks: int) -> Chain:
    """Draws the images of a task and the places of clicks on its parts; equal for equal numbers."""
    labeled = labeled_group(
        draw_group(group_rng(Stream.EVALUATION, _SEED, number), group_size=_GROUP, size_px=_SIDE)
    )
    rng = np.random.default_rng(number)
    parts = [part.mask for part in labeled.parts if part.image_index == 0 and part.kind.is_part]
    spots = [rng.choice(np.argwhere(parts[int(rng.integers(len(parts)))])) for _ in range(clicks)]
    places = tuple((100 * (x + 0.5) / _SIDE, 100 * (y + 0.5) / _SIDE) for y, x in spots)
    return Chain(labeled.group.images, places, number + 1)


@contextmanager
def ready_database() -> Iterator[str]:
    """Yields the URL of an empty PostgreSQL, which is stopped afterwards.

    Raises:
        BenchError: none is installed.
    """
    binaries = find_binaries()
    if binaries is None:
        raise BenchError("no PostgreSQL is installed (initdb not found)")
    with tempfile.TemporaryDirectory(prefix="calico-postgres-") as place:
        Path(place).chmod(0o755)  # the user it runs as is another
        with running_postgres(binaries, Path(place) / "server") as own:
            yield own
