"""`calico serve`: the ML backend on gunicorn; options win over the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend._wsgi import run_server
from backend.settings import load_settings


def serve(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. [CALICO_HOST, 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port to listen on. [CALICO_PORT, 9090]")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="DIR", help="Model folder. [CALICO_WEIGHTS, calico-tiny]"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda or cuda:N. [CALICO_DEVICE, cpu]")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="What is kept. [CALICO_DATA_DIR, .calico]"),
    ] = None,
    label_studio_url: Annotated[
        str | None,
        typer.Option("--label-studio-url", metavar="URL", help="[LABEL_STUDIO_URL]"),
    ] = None,
    allow_open_bind: Annotated[
        bool,
        typer.Option("--allow-open-bind", help="Serve other machines without credentials."),
    ] = False,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")
    ] = None,
) -> None:
    """Run the ML backend until it is stopped.

    Secrets and everything else are environment variables; README.md lists them.
    """
    run_server(
        load_settings(
            host=host,
            port=port,
            weights=weights,
            device=device,
            data_dir=data_dir,
            label_studio_url=label_studio_url,
            allow_open_bind=allow_open_bind or None,
            log_level=log_level,
        )
    )
