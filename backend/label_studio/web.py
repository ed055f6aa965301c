"""The HTTP client for all requests of the backend.

No cookies: several hosts may share an address, and a cookie of one must not reach another. Nothing
from the environment: proxies and credentials there are not meant for the backend. The operator's
certificates are trusted beside the usual ones.
"""

from __future__ import annotations

import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from backend.errors import SettingsError

# Some hosts refuse the names of HTTP libraries.
USER_AGENT = "Mozilla/5.0 (compatible; CALICO labeling backend)"


def open_client(
    *,
    base_url: str = "",
    timeout: httpx.Timeout | None = None,
    transport: httpx.BaseTransport | None = None,
    certificates: Path | None = None,
) -> httpx.Client:
    """Returns a client that keeps no cookies.

    Args:
        base_url: prefix of relative addresses.
        timeout: default for requests.
        transport: for tests; None is the network.
        certificates: file or folder of further trusted certificate authorities, or None.

    Raises:
        SettingsError: the certificates cannot be read.
    """
    return httpx.Client(
        base_url=base_url,
        timeout=timeout or httpx.Timeout(5.0),
        transport=transport,
        trust_env=False,
        verify=_trusted(certificates),
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        headers={"User-Agent": USER_AGENT},
    )


def certificate_problem(error: BaseException) -> str | None:
    """Returns what is wrong with a certificate; None if the request failed for another reason."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return None


def certificate_advice(error: BaseException) -> str | None:
    """Returns the problem of a host's certificate and what to do about it; None without one."""
    problem = certificate_problem(error)
    if problem is None:
        return None
    return (
        f"{problem}; for a certificate authority of your own set CALICO_CA_BUNDLE (or "
        "SSL_CERT_FILE) to the file with its certificate"
    )


def _trusted(certificates: Path | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if certificates is None:
        return context
    try:
        if certificates.is_dir():
            context.load_verify_locations(capath=str(certificates))
        else:
            context.load_verify_locations(cafile=str(certificates))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(
            "CALICO_CA_BUNDLE (or SSL_CERT_FILE, REQUESTS_CA_BUNDLE): expected a file or folder of "
            f"certificates in PEM, got {certificates} ({error})"
        ) from error
    return context
