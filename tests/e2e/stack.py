"""A Label Studio and a backend of their own, for tests whose backend needs settings of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backend.cli.connect import Ends
from backend.cli.daemon import Daemon
from backend.cli.label_studio_process import (
    HOST,
    Account,
    free_port,
    installed_label_studio,
    start_label_studio,
)
from backend.label_studio.client import LabelStudioClient
from tests.e2e.annotator import model_state, wait

USER = ("annotator", "correct-horse")
# A machine that is busy with other things may need other figures for the same steps.
_INHERITED = ("CALICO_TRAIN_SECONDS", "CALICO_MODEL_THREADS")


@contextmanager
def started(
    folder: Path, account: Account, settings: Mapping[str, str], *options: str
) -> Iterator[Ends]:
    """Starts both, and ends both afterwards.

    Args:
        folder: holds everything; what is below `files` is served by Label Studio.
        account: of Label Studio.
        settings: of the backend.
        options: of `calico serve`.
    """
    studio, backend = Daemon("label-studio", folder), Daemon("backend", folder)
    port = free_port(9190)
    url = f"http://{HOST}:{port}"
    files = folder / "files"
    files.mkdir(parents=True)
    try:
        studio_url = start_label_studio(
            studio,
            folder / "label-studio",
            free_port(8180),
            account,
            files=files,
            installed=installed_label_studio(),
        )
        environment = {
            "PATH": str(Path(sys.executable).parent),
            "HOME": str(folder),
            "LABEL_STUDIO_URL": studio_url,
            "LABEL_STUDIO_API_KEY": account.api_key,
            "CALICO_HOST": HOST,
            "CALICO_PORT": str(port),
            "CALICO_DATA_DIR": str(folder / "data"),
            "CALICO_BASIC_AUTH_USER": USER[0],
            "CALICO_BASIC_AUTH_PASSWORD": USER[1],
            **settings,
        }
        environment |= {name: os.environ[name] for name in _INHERITED if name in os.environ}
        backend.start([sys.executable, "-m", "backend.cli", "serve", *options], environment)
        wait(lambda: model_state(url) == "ready")
        client = LabelStudioClient(studio_url, account.api_key)
        yield Ends(client, url, USER)
        client.close()
    finally:
        backend.stop()
        studio.stop()
