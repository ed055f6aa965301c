"""One of several servers, with a quick model that notes every prediction it makes in a file.

python -m tests.servers.server_process PORT DATA_DIR DATABASE_URL LABEL_STUDIO_URL NOTES
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from backend._wsgi import Server
from backend.app import create_server_app
from backend.serving.logs import start_logging
from backend.settings import load_settings
from tests.integration.conftest import DrawnImages
from tests.integration.counting_model import FakeAdapted, FakeBase, predict


class Notes:
    """Lines that several processes add to one file."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, *words):
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


class NotingModel(FakeBase):
    """Predicts at once; no more than the number in the file `NOTES.most`, if there is one."""

    def __init__(self, notes):
        self._notes, self._path, self._most = Notes(notes), Path(notes), Path(f"{notes}.most")

    def predict(self, group):
        return self._predict(group, self.version, 1.0)

    def with_adapter(self, version, folder):
        known = super().with_adapter(version, folder)
        return NotingVersion(known.version, known.score, self._predict)

    def _predict(self, group, version, score):
        while self._is_over():
            threading.Event().wait(0.05)
        self._notes.add(os.getpid(), version)
        return predict(group, version, score)

    def _is_over(self):
        try:
            most = int(self._most.read_text())
        except FileNotFoundError:
            return False
        return len(self._path.read_text().splitlines()) >= most


class NotingVersion(FakeAdapted):
    def __init__(self, version, score, run):
        super().__init__(version, score)
        self._run = run

    def predict(self, group):
        return self._run(group, self.version, self.score)


def serve(port, data_dir, database_url, studio_url, notes):
    settings = load_settings(
        port=int(port),
        data_dir=data_dir,
        database_url=database_url,
        label_studio_url=studio_url,
        label_studio_api_key="0" * 40,
        commit_timeout_ms=30_000,
        predict_budget_s=float(os.environ.get("BUDGET_S", "60")),
        trainer=False,
        refine_clicks=False,
        log_level="INFO",
    )

    class NotingServer(Server):
        def load(self):
            model = NotingModel(notes)
            return create_server_app(settings, load=lambda: model, images=DrawnImages())

    start_logging("INFO")
    NotingServer(settings).run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
