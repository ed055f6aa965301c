"""Which addresses the backend may fetch from: hosts by a list, IP addresses by their kind.

Users write the data of a task, so its URLs must not reach services that only this machine can
reach. The resolver is passed in; no connection is opened.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from backend.errors import ForbiddenAddressError, MediaUnavailableError

Resolver = Callable[[str, int], Sequence[str]]
_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True)
class CheckedUrl:
    """A checked URL and the IP addresses to connect to, in the resolver's order."""

    url: str
    scheme: str
    host: str
    port: int
    ips: tuple[str, ...]

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what credentials belong to."""
        return (self.scheme, self.host, self.port)

    @property
    def host_header(self) -> str:
        """Value of the Host header, with the port unless it is the scheme's own."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _DEFAULT_PORTS[self.scheme] else f"{name}:{self.port}"


def resolve_host(host: str, port: int) -> Sequence[str]:
    """Returns the IP addresses of a host by the system's resolver; raises OSError."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))


class AddressPolicy:
    """Decides which URLs may be fetched.

    Args:
        hosts: "name" (ports 80 and 443), "name:port", "*.domain" or "*". A host listed by name may
            have a private address; a host that only matches a pattern may not.
        resolve: host and port -> IP addresses.
    """

    def __init__(self, hosts: Sequence[str], *, resolve: Resolver = resolve_host) -> None:
        self._names = frozenset(h.lower().rstrip(".") for h in hosts if not h.startswith("*"))
        self._patterns = tuple(host.lower() for host in hosts if host.startswith("*"))
        self._resolve = resolve

    def check(self, url: str) -> CheckedUrl:
        """Checks scheme, host and every address the host resolves to.

        Raises:
            ForbiddenAddressError: the URL must not be fetched.
            MediaUnavailableError: the host has no address.
        """
        scheme, host, port = split_origin(url)
        is_named = self._is_named(host, port, scheme)
        if not is_named and not self._matches(host, port, scheme):
            raise ForbiddenAddressError(
                f"host {host}:{port} is not allowed; expected Label Studio (its other addresses "
                "go into CALICO_LABEL_STUDIO_NAMES) or one of CALICO_IMAGE_HOSTS"
            )
        try:
            addresses = [ipaddress.ip_address(ip) for ip in self._resolve(host, port)]
        except (OSError, UnicodeError, ValueError) as error:
            raise MediaUnavailableError(f"host {host} has no address ({error})") from error
        if not addresses:
            raise MediaUnavailableError(f"host {host} has no address")
        for address in addresses:
            if not is_public(address) and not (is_named and _may_be_named(address, host)):
                raise ForbiddenAddressError(
                    f"host {host} has the address {address}, which is not public"
                )
        return CheckedUrl(url, scheme, host, port, tuple(map(str, addresses)))

    def _is_named(self, host: str, port: int, scheme: str) -> bool:
        name = f"[{host}]" if ":" in host else host
        by_name = port == _DEFAULT_PORTS[scheme] and (host in self._names or name in self._names)
        return by_name or f"{name}:{port}" in self._names

    def _matches(self, host: str, port: int, scheme: str) -> bool:
        if port != _DEFAULT_PORTS[scheme]:
            return False
        return any(
            pattern == "*" or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            for pattern in self._patterns
        )


def split_origin(url: str) -> tuple[str, str, int]:
    """Returns scheme, host and port of an http(s) URL.

    Raises:
        ForbiddenAddressError: another scheme, user information, or a malformed URL.
    """
    if _UNSAFE.search(url):
        raise ForbiddenAddressError("expected a URL without spaces, control signs or backslashes")
    try:
        parts = urlsplit(url)
        host, port = _ascii(parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:  # UnicodeError too
        raise ForbiddenAddressError(f"expected a URL: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise ForbiddenAddressError(f"expected http or https, got {parts.scheme[:20]!r}")
    if "@" in parts.netloc:
        raise ForbiddenAddressError("expected a URL without user name and password")
    if not host or "%" in host:
        raise ForbiddenAddressError("expected a URL with a host")
    return parts.scheme, host, _DEFAULT_PORTS[parts.scheme] if port is None else port


def _ascii(host: str) -> str:
    """Returns the ASCII form of a host name; look-alike digits become digits."""
    return host if host.isascii() else host.encode("idna").decode()


def is_this_machine(host: str) -> bool:
    """Whether a host is a loopback name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_public(address: _Ip) -> bool:
    """Whether an address is public; an IPv4 address inside an IPv6 address counts as IPv4."""
    inner = _embedded(address)
    if inner is not None:
        return is_public(inner)
    # Older versions of Python do not know that these two are private.
    if isinstance(address, ipaddress.IPv6Address) and (
        address.is_site_local or address in _LOCAL_NAT64
    ):
        return False
    return address.is_global and not address.is_multicast


def _embedded(address: _Ip) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def _may_be_named(address: _Ip, host: str) -> bool:
    """Whether a host listed by name may have this address, of a private network or this machine.

    Link-local addresses serve cloud credentials: the list must hold the literal address itself.
    """
    plain = _embedded(address) or address
    if plain.is_loopback:  # "::1" counts as reserved too
        return True
    if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain.is_reserved:
        return host == str(address)
    return True
