"""One HTTP request for one image: to a checked address, within limits of bytes and time.

Knows connections, headers and bodies; media.py chooses the URL and decides which host may see the
token. The HTTP client is shared between threads.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from backend.errors import MediaUnavailableError, UnreadableMediaError
from backend.label_studio.address import CheckedUrl
from backend.label_studio.image_decoding import MediaLimits
from backend.label_studio.web import certificate_advice, open_client

_ADDRESSES_TRIED = 3
_NAME_CHARACTERS = 100  # of a file, in a message
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OPAQUE_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})
# PNG, JPEG, GIF, WebP (and AVI), BMP, TIFF: what a host calls them does not matter.
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_GZIP = 16 + zlib.MAX_WBITS
_DECODERS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}


class Download:
    """Requests images from hosts.

    Args:
        limits: what one image may cost.
        transport: for tests; None is the network.
        certificates: further trusted authorities; see `open_client`.
    """

    def __init__(
        self,
        limits: MediaLimits,
        *,
        transport: httpx.BaseTransport | None = None,
        certificates: Path | None = None,
    ) -> None:
        self._limits = limits
        self._http = open_client(transport=transport, certificates=certificates)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def ask(
        self, target: CheckedUrl, headers: Mapping[str, str], deadline: float, *, refused: str = ""
    ) -> bytes | str | None:
        """Sends one request.

        Args:
            target: the checked URL.
            headers: of the request.
            deadline: `time.monotonic()` at which the image is too late.
            refused: advice for the user if the host refuses the request.

        Returns:
            The bytes, the address of a redirect, or None for a refused token.

        Raises:
            MediaError: the host cannot be reached, or what it sends cannot be used.
        """
        try:
            with closing(self._connect(target, headers, deadline)) as response:
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    return str(response.headers["location"])
                if response.status_code == 401 and "Authorization" in headers:
                    return None
                self._check(response, refused)
                data = self._decoded(response, self._body(response, deadline))
                _check_kind(response, data)
                return data
        except httpx.TimeoutException as error:
            raise self._too_slow() from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = certificate_advice(error)
            raise MediaUnavailableError(
                f"host {target.host} cannot be reached" + (f": {why}" if why else "")
            ) from error

    def _connect(
        self, target: CheckedUrl, headers: Mapping[str, str], deadline: float
    ) -> httpx.Response:
        """Connects to the first address that listens ("localhost" may be ::1 or 127.0.0.1)."""
        parts = urlsplit(target.url)
        query = f"?{parts.query}" if parts.query else ""
        failure: httpx.TransportError | None = None
        for ip in target.ips[:_ADDRESSES_TRIED]:
            place = f"[{ip}]" if ":" in ip else ip
            request = self._http.build_request(
                "GET",
                f"{target.scheme}://{place}:{target.port}{parts.path or '/'}{query}",
                headers=headers,
                timeout=self._time_left(deadline),
                extensions={"sni_hostname": target.host},
            )
            try:
                return self._http.send(request, stream=True, follow_redirects=False)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or httpx.ConnectError("no address")

    def _check(self, response: httpx.Response, refused: str) -> None:
        if response.status_code != 200:
            hint = f"; {refused}" if refused and response.status_code in (401, 403) else ""
            # A query may hold a signature, so the name of the file alone is given.
            name = unquote(response.request.url.path).rpartition("/")[2]
            named = f" for {name[:_NAME_CHARACTERS]}" if "." in name else ""
            raise MediaUnavailableError(f"the host answered {response.status_code}{named}{hint}")
        length = response.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limits.max_bytes:
            raise self._limits.too_large()

    def _decoded(self, response: httpx.Response, data: bytes) -> bytes:
        """Returns the decoded body: some hosts send a Content-Encoding that was not requested."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("identity", ""):
            return data
        if encoding not in _DECODERS:
            raise UnreadableMediaError(
                f"expected a body with Content-Encoding identity or gzip, got {encoding[:40]!r}"
            )
        most = self._limits.max_bytes
        # "deflate" is often sent without a header.
        for window in (_DECODERS[encoding], -zlib.MAX_WBITS):
            decoder = zlib.decompressobj(window)
            try:
                plain = decoder.decompress(data, most + 1)
            except zlib.error:
                continue
            if len(plain) > most:
                raise self._limits.too_large()
            if decoder.eof:
                return plain
        raise UnreadableMediaError(f"expected a body in {encoding}, as its Content-Encoding says")

    def _body(self, response: httpx.Response, deadline: float) -> bytes:
        data = bytearray()
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > self._limits.max_bytes:
                raise self._limits.too_large()
            if time.monotonic() > deadline:
                raise self._too_slow()
        expected = response.headers.get("content-length", "")
        if expected.isdigit() and int(expected) != len(data):
            raise MediaUnavailableError(f"expected {expected} bytes, the host sent {len(data)}")
        return bytes(data)

    def _time_left(self, deadline: float) -> httpx.Timeout:
        """Returns timeouts that end at the deadline, for the connection and for each read."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._too_slow()
        limits = self._limits
        return httpx.Timeout(
            min(limits.read_timeout_s, left), connect=min(limits.connect_timeout_s, left)
        )

    def _too_slow(self) -> MediaUnavailableError:
        return MediaUnavailableError(f"expected the image within {self._limits.timeout_s:g} s")


def _check_kind(response: httpx.Response, data: bytes) -> None:
    """Refuses a page instead of an image; an image with a wrong content type is accepted."""
    kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind in _OPAQUE_TYPES or kind.startswith("image/") or data.startswith(_SIGNATURES):
        return
    raise UnreadableMediaError(f"expected an image, got content of type {kind[:60]!r}")
