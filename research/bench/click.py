"""`calico bench click`: times the answer to a click on an opened task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from backend.cli.progress import progress_bar
from backend.cli.tables import print_fitted
from backend.label_studio import brush
from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from calico_model.types import BoolMask
from research.bench.server import (
    JSON_HEADERS,
    BenchError,
    BenchServer,
    percentile_ms,
    running_server,
)
from research.label_studio.sample import JsonObject, click_body, mask_results, predict_body

_SIDE = 1000  # pixels: one megapixel
_GROUP = 2
_TASKS, _SEED = 8, 2
_MASKS = 100
_WARM_UP = 5
_CORRECTING = "_correcting"
_REGIMES = {
    "": "an empty canvas",
    f"_{_MASKS}_masks": f"{_MASKS} masks of other kinds",
    _CORRECTING: f"{_MASKS} masks and one more, which is corrected",
}


def bench_click(
    clicks: Annotated[
        int, typer.Option("--clicks", min=10, help="Clicks to time, with and without masks.")
    ] = 60,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Model folder.")
    ] = None,
) -> None:
    """Time warm clicks over HTTP, with 0 and with 100 earlier masks in the request.

    A real gunicorn server runs on loopback. Its tasks have two one-megapixel images and were
    opened before. Clicks fall somewhere into true parts. Three kinds take turns: on an empty
    canvas, on one with 100 masks of other kinds, and on one with 100 masks of their own kind and
    one more under the click, which is corrected. An answer holds the outlined part, its name, and
    similar parts of the other image.

    Example: calico bench click

    The last line is JSON, times in milliseconds.
    """
    times: dict[str, list[float]] = {regime: [] for regime in _REGIMES}
    with running_server(weights, CALICO_REFINE_CLICKS="true") as server:
        server.wait_for_model()
        rng = np.random.default_rng(0)
        tasks = [_open(server, number) for number in range(_TASKS)]
        canvas = {
            "": [],
            f"_{_MASKS}_masks": _drawn(rng, ("common_object", "unique_part")),
            _CORRECTING: _drawn(rng, ("common_part",)),
        }
        with progress_bar("Clicking", clicks) as advance_to:
            for number in range(_WARM_UP + clicks):
                task = tasks[int(rng.integers(_TASKS))]
                for regime, earlier in canvas.items():
                    x, y = task.place(rng)
                    under = _under(rng, x, y) if regime == _CORRECTING else []
                    body = _body(task.urls, x, y, f"click{regime}-{number}", [*earlier, *under])
                    seconds = server.predict(body).seconds
                    if number >= _WARM_UP:
                        times[regime].append(seconds)
                advance_to(max(0, number + 1 - _WARM_UP))
    _report(times)


@dataclass(frozen=True, eq=False)
class _Task:
    """An opened task.

    Attributes:
        urls: of the images.
        parts: (H, W) bool masks of the true parts of the first image.
    """

    urls: tuple[str, ...]
    parts: tuple[BoolMask, ...]

    def place(self, rng: np.random.Generator) -> tuple[float, float]:
        """A random place in a random part; x and y in percent."""
        part = self.parts[int(rng.integers(len(self.parts)))]
        row, column = rng.choice(np.argwhere(part))
        return 100 * (column + 0.5) / _SIDE, 100 * (row + 0.5) / _SIDE


def _open(server: BenchServer, number: int) -> _Task:
    drawn = group_rng(Stream.EVALUATION, _SEED, number)
    labeled = labeled_group(draw_group(drawn, group_size=_GROUP, size_px=_SIDE))
    urls = server.keep_files(labeled.group.images, f"task-{number}")
    opened = json.dumps(predict_body([urls])).encode()
    if server.ask("POST", "/predict", opened, JSON_HEADERS).status != 200:
        raise BenchError("the task cannot be opened")
    parts = [part for part in labeled.parts if part.kind.is_part]
    return _Task(urls, tuple(part.mask for part in parts if part.image_index == 0))


def _body(
    urls: Sequence[str], x: float, y: float, name: str, earlier: Sequence[JsonObject]
) -> bytes:
    drafts = [{"id": 1, "result": list(earlier), "updated_at": "2026-01-01T00:00:00Z"}]
    body = click_body(urls, x=x, y=y, name=name, side=_SIDE, drafts=drafts if earlier else ())
    return json.dumps(body).encode()


def _drawn(rng: np.random.Generator, kinds: Sequence[str]) -> list[JsonObject]:
    """Results of 100 ellipses over the images of the group, of each kind in turn."""
    results: list[JsonObject] = []
    for number in range(_MASKS):
        rle = brush.encode_mask(_ellipse(rng))
        kind = kinds[number // _GROUP % len(kinds)]
        results += mask_results(f"mask{number:05d}", number % _GROUP, rle, side=_SIDE, kind=kind)
    return results


def _under(rng: np.random.Generator, x: float, y: float) -> list[JsonObject]:
    """Results of an ellipse around a click at x, y in percent."""
    rle = brush.encode_mask(_ellipse(rng, (y * _SIDE / 100, x * _SIDE / 100)))
    return mask_results("underneath", 0, rle, side=_SIDE)


def _ellipse(
    rng: np.random.Generator, middle: tuple[float, float] | None = None
) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:_SIDE, :_SIDE]
    row, column = rng.uniform(0, _SIDE, 2) if middle is None else middle
    tall, wide = rng.uniform(20, 150, 2)
    inside: NDArray[np.bool_] = ((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < 1
    return inside


def _report(times: dict[str, list[float]]) -> None:
    table = Table("what is in the request", "clicks", "p50 ms", "p95 ms", "max ms")
    figures: dict[str, float] = {}
    for regime, measured in times.items():
        p50, p95, largest = (percentile_ms(measured, share) for share in (50, 95, 100))
        table.add_row(_REGIMES[regime], str(len(measured)), f"{p50}", f"{p95}", f"{largest}")
        figures |= {f"p50_ms{regime}": p50, f"p95_ms{regime}": p95}
    print_fitted(table)
    typer.echo(json.dumps(figures))
