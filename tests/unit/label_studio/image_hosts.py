"""Hosts of images as tests see them: addresses, pages, pictures and a token."""

from __future__ import annotations

import io

import httpx
from PIL import Image

from backend.label_studio.media import MediaFetcher

STUDIO = "http://studio.local:8080"
PUBLIC = "https://label.example.com"
"""Another name of the same Label Studio."""
PRIVATE = {"studio.local": ["10.0.0.5"], "images.example.com": ["93.184.216.34"]}


def resolve(host, port):
    return PRIVATE.get(host, ["127.0.0.1"])


def picture(size=(8, 6), kind="PNG", mode="RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 90).save(file, format=kind, **options)
    return file.getvalue()


def answer(content=None, status=200, content_type="image/png", **headers):
    body = picture() if content is None else content
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers |= {"content-type": content_type, "content-length": str(len(body))}
    return lambda request: httpx.Response(status, content=iter([body]), headers=headers)


class Token:
    """A token that remembers how often it was renewed."""

    def __init__(self, error=None):
        self.renewed = 0
        self.error = error

    def header(self, *, renew=False):
        if self.error is not None:
            raise self.error
        self.renewed += renew
        return f"Bearer {self.renewed}"


class Web:
    """Answers by host and path; remembers every request."""

    def __init__(self, **pages):
        self.pages = pages
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        page = self.pages["page"] if "page" in self.pages else self.pages[request.url.path]
        return page(request) if callable(page) else page


def fetcher(web, **options):
    options.setdefault("label_studio_url", STUDIO)
    options.setdefault("authorization", Token())
    options.setdefault("hosts", ("images.example.com",))
    return MediaFetcher(resolve=resolve, transport=httpx.MockTransport(web), **options)
