"""Image URLs of a task -> pixels, within limits of bytes, pixels, side and time.

Knows where Label Studio keeps files and which URL may carry its token. Every URL, also of a
redirect, is checked by the address policy. A file under another name of Label Studio is requested
from the one address in the settings. Connections are opened in download.py.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, quote, unquote, urljoin, urlsplit

import httpx

from backend.errors import (
    ForbiddenAddressError,
    InvalidTaskError,
    LabelStudioError,
    MediaError,
    MediaUnavailableError,
    UnreadableMediaError,
)
from backend.label_studio.address import (
    AddressPolicy,
    CheckedUrl,
    Resolver,
    is_this_machine,
    resolve_host,
    split_origin,
)
from backend.label_studio.download import Download
from backend.label_studio.image_decoding import MediaLimits, decode_image, read_data_url
from backend.label_studio.names import StudioNames
from backend.types import Task
from calico_model.errors import InvalidImageError
from calico_model.types import ImageGroup, RgbImage

_LABEL_STUDIO_PATHS = ("/data/", "/storage-data/", "/tasks/")
_LOCAL_FILES = "/data/local-files/"
_STORAGE_SCHEMES = ("s3", "gs", "azure-blob")


class Authorization(Protocol):
    """Makes the Authorization header for Label Studio."""

    def header(self, *, renew: bool = False) -> str:
        """Returns the header's value; `renew` after a refusal. Raises LabelStudioError."""


class MediaFetcher:
    """Fetches images.

    Args:
        label_studio_url: where Label Studio is, or None when unknown.
        authorization: its token, or None.
        hosts: other hosts images may come from; see AddressPolicy.
        local_files_root: folder that `/data/local-files/?d=` is read from directly, or None.
        limits: what one image may cost.
        resolve: host and port -> IP addresses.
        transport: for tests; None is the network.
        names: other addresses of the same Label Studio.
        certificates: file or folder of further certificate authorities that are trusted, or None.

    Raises:
        SettingsError: the certificates cannot be read.
    """

    def __init__(
        self,
        *,
        label_studio_url: str | None = None,
        authorization: Authorization | None = None,
        hosts: Sequence[str] = (),
        local_files_root: Path | None = None,
        limits: MediaLimits | None = None,
        resolve: Resolver = resolve_host,
        transport: httpx.BaseTransport | None = None,
        names: StudioNames | None = None,
        certificates: Path | None = None,
    ) -> None:
        self._limits = limits or MediaLimits()
        self._base = None if label_studio_url is None else label_studio_url.rstrip("/")
        self._origin = None if self._base is None else split_origin(self._base)
        self._prefix = "" if self._base is None else urlsplit(self._base).path
        self._authorization = authorization
        self._root = None if local_files_root is None else local_files_root.resolve()
        studio = () if self._origin is None else (_host_and_port(self._origin),)
        self._policy = AddressPolicy((*studio, *hosts), resolve=resolve)
        self._names = names or StudioNames()
        self._web = Download(self._limits, transport=transport, certificates=certificates)

    def close(self) -> None:
        """Closes the connections."""
        self._web.close()

    def fetch_group(self, task: Task) -> ImageGroup:
        """Fetches every image of a task.

        Raises:
            InvalidTaskError: the task has a problem.
            MediaError: an image cannot be used, or is too large beside those before it; the field
                names it.
        """
        if task.problem is not None:
            raise InvalidTaskError(task.problem)
        images: list[RgbImage] = []
        for url, field in zip(task.image_urls, task.image_fields, strict=True):
            used = sum(image.shape[0] * image.shape[1] for image in images)
            images.append(self.fetch(url, field=field, task_id=task.id, used_pixels=used))
        return ImageGroup(tuple(images), tuple(f"image_{index}" for index in range(len(images))))

    def fetch(
        self, url: str, *, field: str = "url", task_id: int | None = None, used_pixels: int = 0
    ) -> RgbImage:
        """Fetches one image.

        Args:
            url: as it stands in the task's data.
            field: place of the URL in the task, for messages.
            task_id: needed for s3://, gs:// and azure-blob://.
            used_pixels: sum of width x height of the earlier images of the task.

        Returns:
            (H, W, 3) uint8 RGB, EXIF orientation applied.

        Raises:
            MediaError: the image cannot be used.
        """
        return self._fetch(url, field, task_id, used_pixels)[1]

    def fetch_file(
        self, url: str, *, field: str = "url", task_id: int | None = None
    ) -> tuple[bytes, RgbImage]:
        """Fetches one image; returns the bytes of its file, and its pixels as `fetch` does.

        Raises:
            MediaError: the image cannot be used.
        """
        return self._fetch(url, field, task_id, 0)

    def local_path(self, url: str) -> Path | None:
        """Returns the file of an image in the shared folder; None for any other address."""
        path = self._below_prefix(url) or url
        if url.startswith(("http://", "https://")):
            path = self._below_base(self._routed(url)) or ""
        if self._root is None or not path.startswith(_LOCAL_FILES):
            return None
        try:
            return self._local_file(path, self._root)
        except MediaError:
            return None

    def _fetch(
        self, url: str, field: str, task_id: int | None, used_pixels: int
    ) -> tuple[bytes, RgbImage]:
        try:
            content = self._read(url, task_id)
            return content, decode_image(content, self._limits, used_pixels=used_pixels)
        except InvalidImageError as error:
            raise UnreadableMediaError(str(error).removeprefix("image: "), field=field) from error
        except LabelStudioError as error:
            raise MediaUnavailableError(str(error), field=field) from error
        except MediaError as error:
            raise type(error)(str(error), field=field) from error

    def _read(self, url: str, task_id: int | None) -> bytes:
        if url[:5].lower() == "data:":
            return read_data_url(url, self._limits)
        scheme = url.split(":", 1)[0].lower() if "://" in url else ""
        if scheme in ("http", "https"):
            url = self._routed(url)
            path = self._below_base(url)
            if self._root is None or path is None or not path.startswith(_LOCAL_FILES):
                return self._download(url)
            return self._read_local(path, self._root)
        if scheme in _STORAGE_SCHEMES:
            if task_id is None:
                raise ForbiddenAddressError(
                    f"{scheme}:// works only in a task that Label Studio has stored"
                )
            key = base64.urlsafe_b64encode(url.encode()).decode()
            return self._download(
                self._studio_url(f"/tasks/{task_id}/presign/?fileuri={quote(key)}")
            )
        if scheme or not url.startswith("/") or url.startswith("//"):
            raise ForbiddenAddressError(
                "expected http(s)://, data:, s3://, gs://, azure-blob:// or a /data/ path of "
                f"Label Studio, got {url[:60]!r}"
            )
        path = self._below_prefix(url) or url
        if self._root is not None and path.startswith(_LOCAL_FILES):
            return self._read_local(path, self._root)
        if not _is_file_path(path):
            raise ForbiddenAddressError(f"expected a path under /data/, got {url[:60]!r}")
        return self._download(self._studio_url(path))

    def _below_prefix(self, path: str) -> str | None:
        """Returns a path below Label Studio's own path prefix; None for a path outside of it."""
        is_inside = path.startswith(f"{self._prefix}/")
        return path.removeprefix(self._prefix) if is_inside else None

    def _below_base(self, url: str) -> str | None:
        """Returns path and query of a URL of Label Studio; None for another host or path."""
        if self._base is None or not url.startswith(f"{self._base}/"):
            return None
        return url.removeprefix(self._base)

    def _routed(self, url: str) -> str:
        """Returns the URL at Label Studio's one address for a file under any of its names.

        Other URLs are returned unchanged.
        """
        if self._base is None:
            return url
        prefix = self._prefix_at(url)
        if prefix is None:
            return url
        parts = urlsplit(url)
        for start in (prefix, self._prefix, ""):
            path = parts.path.removeprefix(start)
            if parts.path.startswith(f"{start}/") and _is_file_path(path):
                return self._base + path + (f"?{parts.query}" if parts.query else "")
        return url

    def _prefix_at(self, url: str) -> str | None:
        """Returns Label Studio's path prefix at the host of a URL; None for other hosts."""
        try:
            origin = split_origin(url.replace(" ", "%20"))
        except ForbiddenAddressError:
            return None  # the address policy refuses the URL, too
        if origin == self._origin or self._origin is None:
            return None
        _, host, port = self._origin
        if is_this_machine(host) and is_this_machine(origin[1]) and port == origin[2]:
            return self._prefix  # "localhost" and 127.0.0.1
        return self._names.prefix_of(url.replace(" ", "%20"))

    def _studio_url(self, path: str) -> str:
        if self._base is None:
            raise MediaUnavailableError("Label Studio's address is needed: set LABEL_STUDIO_URL")
        return self._base + path

    def _read_local(self, url: str, root: Path) -> bytes:
        """Returns the bytes of a file in the shared folder."""
        with self._local_file(url, root).open("rb") as file:
            data = file.read(self._limits.max_bytes + 1)
        if len(data) > self._limits.max_bytes:
            raise self._limits.too_large()
        return data

    @staticmethod
    def _local_file(url: str, root: Path) -> Path:
        """Returns a file in the shared folder; links that lead out are refused."""
        relative = parse_qs(urlsplit(url).query).get("d", [""])[0]
        try:
            path = (root / relative.lstrip("/")).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise MediaUnavailableError(f"no file {relative[:200]!r} in the folder") from error
        if not path.is_relative_to(root) or not path.is_file():
            raise ForbiddenAddressError(
                f"expected a file inside the folder, got {relative[:200]!r}"
            )
        return path

    def _download(self, url: str) -> bytes:
        deadline = time.monotonic() + self._limits.timeout_s
        url = url.replace(" ", "%20")  # as browsers do
        redirects = 0
        renew = was_refused = False
        while True:
            target = self._policy.check(url)
            answer = self._web.ask(
                target,
                self._headers(target, renew=renew),
                deadline,
                refused=self._advice(target),
            )
            if isinstance(answer, bytes):
                return answer
            renew = answer is None
            if renew and was_refused:
                raise MediaUnavailableError("Label Studio refused the token")
            was_refused = was_refused or renew
            if answer is not None:
                redirects += 1
                requested, goal = url, _joined(url, answer)
                url = self._routed(goal)
                if url == requested != goal:
                    raise MediaUnavailableError(
                        f"Label Studio at {self._base} redirects to {goal[:200]}; set "
                        "LABEL_STUDIO_URL to the address it redirects to"
                    )
            if redirects > self._limits.max_redirects:
                raise MediaUnavailableError(
                    f"expected at most {self._limits.max_redirects} redirects"
                )

    def _headers(self, target: CheckedUrl, *, renew: bool) -> dict[str, str]:
        """The token goes to Label Studio's own origin and file paths only."""
        # Label Studio answers 406 to /data/local-files/ when only images are accepted.
        headers = {
            "Host": target.host_header,
            "Accept-Encoding": "identity",
            "Accept": "image/*, */*;q=0.1",
        }
        if self._is_studio_file(target) and self._authorization is not None:
            headers["Authorization"] = self._authorization.header(renew=renew)
        return headers

    def _is_studio_file(self, target: CheckedUrl) -> bool:
        path = self._below_prefix(urlsplit(target.url).path)
        return target.origin == self._origin and path is not None and _is_file_path(path)

    def _advice(self, target: CheckedUrl) -> str:
        """Returns what the user can do if a host refuses to send an image."""
        if not self._is_studio_file(target):
            return f"{target.host} does not let this machine fetch it without signing in"
        if self._authorization is None:
            return "set LABEL_STUDIO_API_KEY"
        return "check LABEL_STUDIO_API_KEY, and that its user may see the project"


def _host_and_port(origin: tuple[str, str, int]) -> str:
    _, host, port = origin
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise ForbiddenAddressError(f"expected a URL: {error}") from error


def _is_file_path(path: str) -> bool:
    """Whether Label Studio keeps files under a path; False for a path with ".."."""
    plain = unquote(unquote(path.split("?")[0]))
    return plain.startswith(_LABEL_STUDIO_PATHS) and ".." not in plain.split("/")
