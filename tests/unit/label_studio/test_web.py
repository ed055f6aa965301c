"""Certificates of one's own against a real TLS server, and cookies of Label Studio's API."""

from __future__ import annotations

import http.server
import io
import ssl
import subprocess
import threading
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image

from backend.errors import LabelStudioError, MediaUnavailableError, SettingsError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.media import MediaFetcher
from backend.label_studio.onboarding import refused_addresses
from backend.settings import load_settings


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, format="PNG")
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one picture under every path, and Label Studio's version."""

    def do_GET(self):
        is_api = self.path.startswith("/api/")
        body = b'{"release": "1.23.2"}' if is_api else picture()
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if is_api else "image/png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of "localhost", with its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@contextmanager
def tls_server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_certificate_of_ones_own_is_named_until_it_is_trusted(certificate):
    with tls_server(certificate) as port:
        url = f"https://localhost:{port}"
        with pytest.raises(MediaUnavailableError, match=r"certificate.*CALICO_CA_BUNDLE"):
            MediaFetcher(label_studio_url=url).fetch("/data/a.png")
        with pytest.raises(LabelStudioError, match=r"certificate.*CALICO_CA_BUNDLE"):
            LabelStudioClient(url, "0" * 40).version()
        with pytest.raises(LabelStudioError, match=r"certificate.*CALICO_CA_BUNDLE"):
            refused_addresses(LabelStudioClient(url, "0" * 40), "http://127.0.0.1:9090")
        trusted = certificate / "cert.pem"
        media = MediaFetcher(label_studio_url=url, certificates=trusted)
        assert media.fetch("/data/a.png").shape == (6, 8, 3)
        assert LabelStudioClient(url, "0" * 40, certificates=trusted).version() == "1.23.2"
        other = f"https://127.0.0.1:{port}"  # trusted, but not for this name
        with pytest.raises(MediaUnavailableError, match=r"certificate.*127\.0\.0\.1"):
            MediaFetcher(label_studio_url=other, certificates=trusted).fetch("/data/a.png")


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_certificates_that_cannot_be_read_are_named(tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"CALICO_CA_BUNDLE.*ca\.pem"):
        MediaFetcher(certificates=file)


@pytest.mark.parametrize(
    "variable", ["CALICO_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
)
def test_the_usual_variables_name_the_certificates(monkeypatch, variable, tmp_path):
    for name in ("CALICO_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert load_settings().ca_bundle is None
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    assert load_settings().ca_bundle == tmp_path / "ca.pem"
    monkeypatch.setenv("CALICO_CA_BUNDLE", str(tmp_path / "own.pem"))
    assert load_settings().ca_bundle == tmp_path / "own.pem"
    assert load_settings(ca_bundle=tmp_path / "given.pem").ca_bundle == tmp_path / "given.pem"


def test_the_session_of_label_studio_is_not_kept_beside_the_token():
    requests = []

    def answer(request):
        requests.append(request)
        headers = {"set-cookie": "sessionid=secret; Path=/"}
        return httpx.Response(200, json={"release": "1.23.2"}, headers=headers)

    client = LabelStudioClient("http://ls", "0" * 40, transport=httpx.MockTransport(answer))
    client.version()
    client.version()
    assert [request.headers.get("cookie") for request in requests] == [None, None]


@pytest.mark.parametrize("value", ["a b", "ftp://a", "http://", "*.example.com", "http://u@a"])
def test_a_name_that_is_no_address_is_refused(monkeypatch, value):
    monkeypatch.setenv("CALICO_LABEL_STUDIO_NAMES", value)
    with pytest.raises(SettingsError, match="CALICO_LABEL_STUDIO_NAMES"):
        load_settings()
