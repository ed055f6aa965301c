"""How the values of settings look in the environment: their forms, and what is refused.

A value that is refused raises ValueError with the expected form.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from backend.clock import parse_hours
from calico_model.errors import InvalidConfigError
from calico_model.sources.registry import read_choices

_NO_NAME = re.compile(r"[*\s]")
_ADDRESS = re.compile(r"[^\s:/@]+:([1-9][0-9]{0,4})")
_HOST = re.compile(r"\*|(\*\.)?[^/@*\s]+")


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(entry.strip() for entry in value.split(",") if entry.strip())


def _split_hosts(value: object) -> object:
    return _split(value.lower() if isinstance(value, str) else value)


def _check_sources(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        read_choices(value, Path())
    except InvalidConfigError as error:
        raise ValueError(str(error)) from None
    return value


def _check_http_url(value: str) -> str:
    parts = urlsplit(value)
    if "@" in parts.netloc:
        raise ValueError("expected an address without user name and password")
    is_whole = parts.scheme in ("http", "https") and parts.hostname
    if not is_whole or parts.query or parts.fragment or parts.port == 0:  # reads the port
        raise ValueError("expected http://HOST[:PORT] or https://HOST[:PORT]")
    return value.rstrip("/")


def _check_hours(value: str) -> str:
    parse_hours(value)
    return value


def check_shelf_url(value: str) -> str:
    """Returns the address of a folder or bucket, without a slash at its end.

    Raises:
        ValueError: it is another address.
    """
    parts = urlsplit(value)
    is_folder = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    is_bucket = parts.scheme in ("s3", "gs") and parts.netloc and "@" not in parts.netloc
    if not (is_folder or is_bucket) or parts.query or parts.fragment:
        raise ValueError("expected file:///FOLDER, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    return value.rstrip("/")


def _check_host_and_port(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if found is None or int(found[1]) > 65_535:
        raise ValueError("expected HOST:PORT with a port from 1 to 65535")
    return value


def _check_addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        parts = urlsplit(name if "://" in name else f"http://{name}")
        is_whole = parts.scheme in ("http", "https") and parts.hostname and "@" not in name
        if (
            not is_whole
            or parts.query
            or parts.fragment
            or parts.port == 0
            or _NO_NAME.search(name)
        ):
            raise ValueError('expected "name", "name:port" or http(s)://name[:port][/path]')
    return value


def _check_hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_HOST.fullmatch(host) for host in value):
        raise ValueError('expected "name", "name:port", "*.domain" or "*", without http://')
    return value


_Texts = tuple[str, ...]
HttpUrl = Annotated[str, AfterValidator(_check_http_url)]
"""http(s)://HOST[:PORT], without a slash at its end."""
Hours = Annotated[str, AfterValidator(_check_hours)]
"""Hours of the day, as 20-6."""
PlaceOfAdapters = Annotated[str, AfterValidator(check_shelf_url)]
"""URL of a folder or bucket, without a slash at its end."""
HostAndPort = Annotated[str, AfterValidator(_check_host_and_port)]
SourceNames = Annotated[_Texts, NoDecode, BeforeValidator(_split), AfterValidator(_check_sources)]
"""Segmenters as `calico_model.sources.registry.read_choices` reads them, separated by commas."""
Hosts = Annotated[_Texts, NoDecode, BeforeValidator(_split_hosts), AfterValidator(_check_hosts)]
"""Hosts, as they may be allowed: with a port, or a whole domain; in lower case."""
Addresses = Annotated[
    _Texts, NoDecode, BeforeValidator(_split_hosts), AfterValidator(_check_addresses)
]
"""Addresses of one server, with or without scheme and port; in lower case."""
