"""A hub on this machine: the routes its client uses, over files held in memory."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"
_LARGE = 4096


@dataclass
class FakeHub:
    """What the hub has and what it was asked.

    Attributes:
        files: bytes by repository and name.
        licences: by repository.
        gated: repositories that let nobody in.
        ignores_ranges: answers every request with the whole file.
        unlisted: names that are in the list alone.
        damaged: names whose bytes are not those that are listed.
        asked: path and Range header of every request for a file.
    """

    files: dict[str, dict[str, bytes]]
    licences: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)
    ignores_ranges: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def listing(self, repository: str) -> bytes:
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": "b" * 40,
                **(
                    {
                        "lfs": {
                            "sha256": sha256(data).hexdigest(),
                            "size": len(data),
                            "pointerSize": 134,
                        }
                    }
                    if len(data) > _LARGE
                    else {}
                ),
            }
            for name, data in self.files[repository].items()
        ]
        card = {"license": self.licences[repository]} if repository in self.licences else {}
        answer = {"id": repository, "sha": REVISION, "siblings": siblings, "cardData": card}
        return json.dumps(answer).encode()


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


class _Server(ThreadingHTTPServer):
    hub: FakeHub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            self._answer_listing(match[1])
        elif match := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{REVISION}/(.+)", path):
            self._answer_file(match[1], match[2])
        else:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _answer_listing(self, repository: str) -> None:
        hub = self.server.hub
        if repository in hub.files:
            self._answer(200, hub.listing(repository))
        else:
            self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _answer_file(self, repository: str, name: str) -> None:
        hub, span = self.server.hub, self.headers.get("Range")
        hub.asked.append((f"{repository}/{name}", span))
        data = hub.files[repository][name]
        if name in hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if repository in hub.gated:
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif name in hub.unlisted:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        elif span is None or hub.ignores_ranges:
            self._answer(200, data)
        else:
            start = int(span.removeprefix("bytes=").rstrip("-"))
            rest = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._answer(206, data[start:], {"Content-Range": rest})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass
