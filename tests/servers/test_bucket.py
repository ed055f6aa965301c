"""Adapter versions in a bucket: a real client of S3 against a server of moto on loopback.

`make test-servers` installs both.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack

import httpx
import pytest
from sqlalchemy import select

from backend.cli.label_studio_process import free_port
from backend.cli.prelabel_manifest import read_manifest
from backend.errors import DamagedFilesError, FilesUnavailableError
from backend.storage.adapter_files import INCOMING, AdapterFiles, folder_digest
from backend.storage.places import read_place
from backend.storage.shelf import open_shelf
from backend.storage.tables import adapter
from research.label_studio.sample import predict_body, setup_body
from tests.integration.counting_model import BASE
from tests.integration.studio_double import PROJECT
from tests.integration.test_train_nodes import check_that_they_go_on, nodes  # noqa: F401
from tests.integration.test_train_records import inputs, whole  # noqa: F401
from tests.servers.fleet import fleet_of, wait_for
from tests.servers.processes import running
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401
from tests.unit.storage.test_adapter_files import CONTENT, URI, Machine, kill_in_the_middle

s3fs = pytest.importorskip("s3fs", reason="`make test-servers` installs s3fs and moto")
pytest.importorskip("moto", reason="`make test-servers` installs s3fs and moto")
pytestmark = pytest.mark.slow
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Bucket:
    """A bucket on a server that can go away and come back, then empty."""

    url = "s3://calico/adapters"

    def __init__(self, stack):
        self._stack, self._port = stack, free_port()
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def start(self):
        self._server = ExitStack()
        self._stack.callback(self._server.close)
        words = ("-H", "127.0.0.1", "-p", self._port)
        process = self._server.enter_context(running("moto.server", *words))
        wait_for(self._answers, 120, lambda: process.poll() is None)
        httpx.put(f"{self.endpoint}/calico", timeout=30).raise_for_status()

    def go_away(self):
        self._server.close()

    def _answers(self):
        try:
            return httpx.get(f"{self.endpoint}/moto-api/", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def bucket(monkeypatch):
    with ExitStack() as stack:
        made = Bucket(stack)
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        s3fs.S3FileSystem.clear_instance_cache()
        made.start()
        yield made
        s3fs.S3FileSystem.clear_instance_cache()


def machine(tmp_path, name, bucket):
    return Machine(tmp_path, name, open_shelf(bucket.url))


def test_a_version_goes_through_the_bucket(tmp_path, bucket):
    here, there = (machine(tmp_path, name, bucket) for name in ("here", "there"))
    digest = here.make()
    with pytest.raises(FilesUnavailableError, match="is not there"):
        there.files.verified(URI, digest)
    assert here.files.share(URI)
    place = there.files.verified(URI, digest)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == CONTENT
    assert there.files.shared() == {URI}
    with pytest.raises(DamagedFilesError, match="expected 000000"):
        machine(tmp_path, "other", bucket).files.verified(URI, "0" * 64)
    assert there.files.withdraw({URI, "7/never-1"}) == 1
    assert here.files.shared() == frozenset()


def test_fifty_kills_leave_nothing_half_in_the_bucket_or_here(tmp_path, bucket):
    kill_in_the_middle(tmp_path, bucket.url, 50, seconds=1.0)
    left = s3fs.S3FileSystem(use_listings_cache=False).find("calico")
    assert left == [f"calico/adapters/{URI}.tar"]


def test_twelve_who_ask_at_once_take_one_copy(tmp_path, bucket):
    here, there = (machine(tmp_path, name, bucket) for name in ("here", "there"))
    digest = here.make()
    here.files.share(URI)
    start, places = threading.Barrier(12), []

    def race():
        start.wait()
        files = AdapterFiles(there.folder, open_shelf(bucket.url))
        places.append(files.verified(URI, digest))

    racers = [threading.Thread(target=race) for _ in range(12)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert places == [there.folder / URI] * 12
    assert folder_digest(there.folder / URI)[0] == digest
    assert {path.name for path in (there.folder / INCOMING).iterdir()} == {"locks"}


def test_while_the_bucket_is_away_copies_serve(tmp_path, bucket):
    here, there = (machine(tmp_path, name, bucket) for name in ("here", "there"))
    digest = here.make()
    here.files.share(URI)
    there.files.verified(URI, digest)
    bucket.go_away()
    assert there.files.verified(URI, digest) == there.folder / URI
    with pytest.raises(FilesUnavailableError, match="cannot be reached now"):
        here.files.share(URI)
    with pytest.raises(FilesUnavailableError, match="cannot be reached now"):
        there.files.verified("7/second-2", digest)
    bucket.start()
    here.files.share(URI)
    assert there.files.shared() == {URI}


def test_a_large_job_reads_its_images_from_the_bucket(bucket):
    files = s3fs.S3FileSystem()
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/note.txt"):
        files.pipe(f"calico/photographs/{name}", name.encode())
    groups = read_manifest("s3://calico/photographs")
    assert [group.images for group in groups] == [
        ("s3://calico/photographs/a/1.png", "s3://calico/photographs/a/2.png"),
        ("s3://calico/photographs/b/1.png",),
    ]
    assert read_place(groups[1].images[0]) == b"b/1.png"
    with pytest.raises(FileNotFoundError):
        read_place("s3://calico/photographs/gone.png")
    files.pipe("calico/photographs/groups.csv", b"left,right\na/1.png,b/1.png\n")
    (row,) = read_manifest("s3://calico/photographs/groups.csv")
    assert row.images[1] == "s3://calico/photographs/b/1.png"


@pytest.mark.parametrize("killed", [0, 1])
def test_a_training_of_two_machines_goes_on_from_the_bucket(nodes, whole, bucket, killed):  # noqa: F811
    nodes.url = "s3://calico/runs/one"
    check_that_they_go_on(nodes, whole, killed)
    left = s3fs.S3FileSystem(use_listings_cache=False).find("calico")
    assert [name.startswith("calico/runs/one/states/step-") for name in left] == [True, True]


def announced(url):
    """The version that a server says it answers with."""
    body = setup_body() | {"project": f"{PROJECT}.1"}
    return httpx.post(f"{url}/setup", json=body, timeout=60).json()["model_version"]


def asked(url, task):
    body = predict_body([[f"{task}-a.png", f"{task}-b.png"]], first_task_id=task)
    body["tasks"][0]["project"] = PROJECT
    return httpx.post(f"{url}/predict", json=body | {"project": f"{PROJECT}.1"}, timeout=120)


def answering(url, task):
    """The version that a server answers with, or its refusal."""
    reply = asked(url, task)
    if reply.status_code == 503:
        assert int(reply.headers["Retry-After"]) > 0
        return None
    return reply.raise_for_status().json()["results"][0]["model_version"]


def status_of(fleet, version):
    with fleet.store.read() as connection:
        query = select(adapter.c.status).where(adapter.c.id == version)
        return connection.execute(query).scalar_one()


@on_postgres
def test_servers_wait_for_a_version_that_is_not_in_the_bucket_yet(
    database_url,  # noqa: F811
    tmp_path,
    bucket,
):
    about = {"servers": 2, "tasks": 40, "apart": True, "CALICO_ADAPTERS_URL": bucket.url}
    with fleet_of(tmp_path, database_url, **about) as fleet:
        assert [announced(url) for url in fleet.urls] == [BASE, BASE]
        version = fleet.promote()
        wait_for(lambda: all(announced(url) == version for url in fleet.urls), 10)
        assert [answering(url, 1) for url in fleet.urls] == [None, None], "neither has its files"

        publisher = AdapterFiles(tmp_path / "data" / "adapters", open_shelf(bucket.url))
        publisher.share(f"{PROJECT}/{version}")
        for url in fleet.urls:
            assert wait_for(lambda url=url: answering(url, 1) == version, 30) <= 30
        assert status_of(fleet, version) == "current"

        bucket.go_away()
        found = [answering(url, task) for task in range(2, 22) for url in fleet.urls]
        assert found == [version] * 40
        assert [announced(url) for url in fleet.urls] == [version] * 2
        assert status_of(fleet, version) == "current"
