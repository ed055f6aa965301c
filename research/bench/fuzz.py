"""`calico bench fuzz`: broken and nearly right requests against a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.progress import progress_bar
from research.bench.fuzz_cases import Tally, make_cases
from research.bench.server import running_server


def bench_fuzz(
    requests: Annotated[int, typer.Option("--requests", min=1, help="How many.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Which.")] = 0,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Model folder.")
    ] = None,
) -> None:
    """Throw broken requests at the backend.

    A real gunicorn server on loopback with the real model. Exit status 1 if any answer was a 5xx,
    or a 4xx that does not name error, detail, field and request id. The last line is JSON.
    """
    tally = Tally()
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
