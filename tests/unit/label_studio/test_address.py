"""Which URLs may be fetched: hosts by list, and what they resolve to."""

from __future__ import annotations

import ipaddress

import pytest

from backend.errors import ForbiddenAddressError, MediaUnavailableError
from backend.label_studio.address import AddressPolicy, is_public

NAMES = {
    "images.example.com": ["93.184.216.34"],
    "cdn.example.com": ["2606:2800:220:1:248:1893:25c8:1946"],
    "inside.example.com": ["10.0.0.7"],
    "mixed.example.com": ["93.184.216.34", "127.0.0.1"],
    "metadata.example.com": ["169.254.169.254"],
    "0x7f.0.0.1": ["127.0.0.1"],
    "0x7f000001": ["127.0.0.1"],
    "2130706433": ["127.0.0.1"],
    "0177.0.0.1": ["127.0.0.1"],
    "127.1": ["127.0.0.1"],
    "localhost": ["::1", "127.0.0.1"],
}


def resolve(host: str, port: int) -> list[str]:
    """A resolver that reads odd numbers the way the C library does."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        if host not in NAMES:
            raise OSError("no such host") from None
        return NAMES[host]


ANY = AddressPolicy(["*"], resolve=resolve)


@pytest.mark.parametrize("host", ["images.example.com", "cdn.example.com", "8.8.8.8"])
def test_public_host_of_a_pattern_is_allowed(host):
    target = ANY.check(f"https://{host}/a.png?x=1")
    assert (target.host, target.port) == (host, 443)
    assert all(is_public(ipaddress.ip_address(ip)) for ip in target.ips)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://0x7f.0.0.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0.0.0.0/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
        "http://[fe80::1]/",
        "http://[fc00::1]/",
        "http://[fec0::1]/",
        "http://[64:ff9b:1::7f00:1]/",
        "http://[ff02::1]/",
        "http://inside.example.com/",
        "http://mixed.example.com/",
        "http://metadata.example.com/",
    ],
)
def test_address_that_is_not_public_is_refused(url):
    with pytest.raises(ForbiddenAddressError, match="not public"):
        ANY.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://images.example.com/a",
        "gopher://images.example.com/",
        "javascript:alert(1)",
        "//images.example.com/a",
        "images.example.com/a",
        "http://",
        "http:///a",
        "http://user@images.example.com/",
        "http://user:pass@images.example.com/",
        "http://images.example.com@127.0.0.1/",
        "http://images.example.com\\@127.0.0.1/",
        "http://images.example.com:port/",
        "http://images.example.com:99999/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://images .example.com/",
        "http://images.example.com/\r\nHost: x",
        "http://images.example.com/\x00",
        "http://images.example.com:8080/",
    ],
)
def test_url_of_a_forbidden_form_is_refused(url):
    with pytest.raises(ForbiddenAddressError):
        ANY.check(url)


def test_name_beyond_ascii_is_asked_in_its_coded_form():
    policy = AddressPolicy(["xn--bcher-kva.example.com"], resolve=lambda host, port: ["8.8.8.8"])
    assert policy.check("http://bücher.example.com/a").host_header == "xn--bcher-kva.example.com"


def test_host_that_is_not_listed_is_refused_without_a_look_at_dns():
    def never(host, port):
        raise AssertionError("resolved")

    policy = AddressPolicy(["images.example.com"], resolve=never)
    with pytest.raises(ForbiddenAddressError, match=r"evil\.com:80 is not allowed"):
        policy.check("http://evil.com/")


@pytest.mark.parametrize(
    ("listed", "url", "is_allowed"),
    [
        ("inside.example.com", "http://inside.example.com/a", True),
        ("inside.example.com", "https://INSIDE.example.com./a", True),
        ("inside.example.com", "http://inside.example.com:8080/a", False),
        ("inside.example.com:8080", "http://inside.example.com:8080/a", True),
        ("inside.example.com:8080", "http://inside.example.com/a", False),
        ("127.0.0.1:8085", "http://127.0.0.1:8085/a", True),
        ("127.0.0.1:8085", "http://127.0.0.1:6379/a", False),
        ("[::1]:8085", "http://[::1]:8085/a", True),
        ("::1", "http://[::1]/a", True),
        ("localhost:8080", "http://localhost:8080/a", True),
        ("localhost:8080", "http://localhost:9000/a", False),
        ("metadata.example.com", "http://metadata.example.com/", False),
        ("169.254.169.254", "http://169.254.169.254/", True),
        ("*.example.com", "http://images.example.com/", True),
        ("*.example.com", "http://example.com.evil.com/", False),
        ("*.example.com", "http://inside.example.com/", False),
        ("*example.com", "http://images.example.com/", False),
    ],
)
def test_list_of_hosts(listed, url, is_allowed):
    policy = AddressPolicy([listed], resolve=resolve)
    if is_allowed:
        assert policy.check(url).url == url
    else:
        with pytest.raises(ForbiddenAddressError):
            policy.check(url)


@pytest.mark.parametrize("answer", [OSError("no name"), UnicodeError("label too long"), []])
def test_host_without_address(answer):
    def broken(host, port):
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(MediaUnavailableError, match="has no address"):
        AddressPolicy(["*"], resolve=broken).check("http://images.example.com/")
