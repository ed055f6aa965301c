"""Folders of adapters on a shelf that several machines reach: whole or not at all, and verified."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections import Counter

import fsspec
import pytest

from backend.errors import DamagedFilesError, FilesUnavailableError, SettingsError
from backend.settings import load_settings
from backend.storage.adapter_files import INCOMING, AdapterFiles, adapter_files, folder_digest
from backend.storage.shelf import BucketShelf, FolderShelf, open_shelf

URI = "7/0123456789abcdef-1"
CONTENT = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 40}


class Machine:
    """One machine: its own folder, and the shelf that all reach."""

    def __init__(self, tmp_path, name, shelf=None):
        self.folder = tmp_path / name
        self.files = AdapterFiles(self.folder, shelf or FolderShelf(tmp_path / "shelf"))

    def make(self, uri=URI, content=CONTENT):
        place = self.folder / uri
        place.mkdir(parents=True)
        for name, data in content.items():
            (place / name).write_bytes(data)
        return folder_digest(place)[0]

    def left(self):
        """What lies in the folder of what is being written, locks aside."""
        return {p.name for p in (self.folder / INCOMING).glob("*")} - {"locks"}


@pytest.fixture
def here(tmp_path):
    return Machine(tmp_path, "here")


@pytest.fixture
def there(tmp_path):
    return Machine(tmp_path, "there")


def test_what_one_machine_shares_another_finds(here, there):
    digest = here.make()
    assert here.files.share(URI)
    place = there.files.verified(URI, digest)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == CONTENT
    assert there.files.verified(URI, digest) == place
    assert here.left() == there.left() == set()


def test_a_copy_that_was_damaged_here_is_taken_again(here, there):
    digest = here.make()
    here.files.share(URI)
    place = there.files.verified(URI, digest)
    (place / "adapter_config.json").write_bytes(b"{ }")
    assert folder_digest(there.files.verified(URI, digest))[0] == digest
    (place / "adapter_config.json").unlink()
    assert folder_digest(there.files.verified(URI, digest))[0] == digest


def test_absent_is_not_damaged(here, there):
    digest = here.make()
    with pytest.raises(FilesUnavailableError, match="is not there"):
        there.files.verified(URI, digest)
    here.files.share(URI)
    there.files.verified(URI, digest)


def test_a_wrong_digest_on_the_shelf_is_damage(here, there, tmp_path):
    here.make()
    here.files.share(URI)
    with pytest.raises(DamagedFilesError, match="expected 000000"):
        there.files.verified(URI, "0" * 64)
    assert not (there.folder / URI).exists()
    (tmp_path / "shelf" / f"{URI}.tar").write_bytes(b"x" * 3000)
    with pytest.raises(DamagedFilesError, match=f"{URI}.tar on the shelf is damaged"):
        there.files.verified(URI, "0" * 64)
    assert there.left() == set()


@pytest.mark.parametrize("name", ["../evil", "sub/file", ".."])
def test_names_that_lead_elsewhere_are_refused(there, tmp_path, name):
    archive = tmp_path / "shelf" / f"{URI}.tar"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w") as packed:
        packed.addfile(tarfile.TarInfo(name))
    with pytest.raises(DamagedFilesError, match="no plain file"):
        there.files.verified(URI, "0" * 64)
    assert not (there.folder / INCOMING / "evil").exists()


class CountingShelf(FolderShelf):
    def __init__(self, root):
        super().__init__(root)
        self.got = Counter()

    def get(self, name, target):
        self.got[name] += 1
        super().get(name, target)


def test_many_who_ask_at_once_take_one_copy(here, tmp_path):
    digest = here.make()
    here.files.share(URI)
    shelf = CountingShelf(tmp_path / "shelf")
    machine = Machine(tmp_path, "there", shelf)
    start, places = threading.Barrier(12), []

    def race():
        start.wait()
        places.append(AdapterFiles(machine.folder, shelf).verified(URI, digest))

    racers = [threading.Thread(target=race) for _ in range(12)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert places == [machine.folder / URI] * 12
    assert shelf.got == {f"{URI}.tar": 1}
    assert machine.left() == set()


def test_while_the_shelf_is_away_copies_serve_and_new_versions_wait(here, there, tmp_path):
    digest = here.make()
    here.files.share(URI)
    there.files.verified(URI, digest)
    (tmp_path / "shelf").rename(tmp_path / "away")
    (tmp_path / "shelf").write_text("no folder")
    assert there.files.verified(URI, digest) == there.folder / URI
    other = here.make("7/second-2", {"a": b"2"})
    with pytest.raises(FilesUnavailableError):
        here.files.share("7/second-2")
    with pytest.raises(FilesUnavailableError):
        there.files.verified("7/second-2", other)
    (tmp_path / "shelf").unlink()
    (tmp_path / "away").rename(tmp_path / "shelf")
    here.files.share("7/second-2")
    assert there.files.verified("7/second-2", other).is_dir()


@pytest.fixture
def bucket():
    """A bucket in the memory of this process, through the library that reaches real ones."""
    files = fsspec.filesystem("memory")
    yield BucketShelf(lambda: files, "/bucket/adapters", "s3://bucket/adapters")
    files.rm("/bucket", recursive=True)


def test_a_bucket_does_what_a_folder_does(tmp_path, bucket):
    here, there = Machine(tmp_path, "here", bucket), Machine(tmp_path, "there", bucket)
    digest = here.make()
    with pytest.raises(FilesUnavailableError, match="s3://bucket/adapters/7/.*is not there"):
        there.files.verified(URI, digest)
    here.files.share(URI)
    assert folder_digest(there.files.verified(URI, digest))[0] == digest
    assert there.files.shared() == {URI}
    assert there.files.withdraw({URI, "7/never-1"}) == 1
    here.make("7/second-2", {"a": b"2"})
    here.files.share("7/second-2")
    assert there.files.shared() == {"7/second-2"}


def test_a_bucket_that_gives_its_own_folder_for_a_file_has_no_archive():
    class Racing:
        """What s3fs finds when the first archive arrives between two of its questions."""

        def invalidate_cache(self):
            pass

        def find(self, place):
            return [place]

    assert BucketShelf(Racing, "bucket/runs", "s3://bucket/runs").names() == frozenset()


def test_a_bucket_that_is_away_is_unavailable_and_not_damaged(tmp_path):
    def away():
        raise RuntimeError("EndpointConnectionError")  # the clients' errors are of many kinds

    machine = Machine(tmp_path, "here", BucketShelf(away, "bucket", "s3://bucket"))
    digest = machine.make()
    for act in (
        lambda: machine.files.share(URI),
        lambda: machine.files.verified("7/other-1", digest),
        machine.files.shared,
    ):
        with pytest.raises(FilesUnavailableError, match="cannot be reached now: RuntimeError"):
            act()
    assert machine.files.verified(URI, digest) == machine.folder / URI


def test_what_a_kill_left_half_written_on_the_shelf_is_removed_a_day_later(here, tmp_path):
    here.make()
    left = [tmp_path / "shelf" / ".incoming" / name for name in ("old", "new")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    os.utime(left[0], (0, 0))
    here.files.share(URI)
    assert [path.exists() for path in left] == [False, True]


def test_versions_are_withdrawn(here):
    here.make()
    here.files.share(URI)
    assert here.files.shared() == {URI}
    assert here.files.withdraw({URI, "7/never-1"}) == 1
    assert here.files.shared() == frozenset()


def test_old_copies_of_a_project_make_room(here, there):
    made = {
        f"7/v-{number}": here.make(f"7/v-{number}", {"a": b"%d" % number}) for number in range(7)
    }
    for number, (uri, digest) in enumerate(made.items()):
        here.files.share(uri)
        place = there.files.verified(uri, digest)
        os.utime(place, (number, number))  # long ago
    kept = sorted(path.name for path in (there.folder / "7").iterdir())
    assert kept == ["v-3", "v-4", "v-5", "v-6"]
    assert there.files.verified("7/v-0", made["7/v-0"]).is_dir()


def test_a_folder_alone_needs_no_shelf(tmp_path):
    files = AdapterFiles(tmp_path / "adapters")
    with pytest.raises(FilesUnavailableError):
        files.verified(URI, "0" * 64)
    assert not files.may_be_there(URI)
    assert files.share(URI) is False
    assert files.withdraw({URI}) == 0


def test_a_plain_installation_imports_no_fsspec(tmp_path):
    code = (
        "import sys, backend.app; from backend.settings import load_settings; "
        "from backend.storage.adapter_files import adapter_files; "
        f"adapter_files(load_settings(adapters_url='file://{tmp_path}')).shared(); "
        "print('fsspec' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
    "url", ["http://x/y", "s3://", "file://host/x", "s3://key:word@bucket/x", "/x", "s3://b?a=1"]
)
def test_other_places_are_refused(url):
    with pytest.raises(SettingsError, match="CALICO_ADAPTERS_URL: expected file:///FOLDER"):
        load_settings(adapters_url=url)


def test_the_settings_name_the_shelf(tmp_path):
    settings = load_settings(data_dir=tmp_path / "data", adapters_url=f"file://{tmp_path}/shelf/")
    here = adapter_files(settings)
    assert here.folder == settings.adapters_dir
    machine = Machine(tmp_path, "data/adapters")
    digest = machine.make()
    assert here.share(URI)
    assert Machine(tmp_path, "there").files.verified(URI, digest).is_dir()


def test_a_bucket_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SettingsError, match=r"needs s3fs; install calico-labeling\[servers\]"):
        open_shelf("s3://bucket/adapters")


# Shares and takes one version again and again, until it is killed.
WORKER = """
import shutil, sys
from pathlib import Path
from backend.storage.adapter_files import AdapterFiles
from backend.storage.shelf import open_shelf
url, here, there, uri, digest = sys.argv[1:]
shelf = open_shelf(url)
AdapterFiles(Path(here), shelf).share(uri)  # a client of buckets takes seconds to import
print("begun", flush=True)
while True:
    AdapterFiles(Path(here), shelf).share(uri)
    shutil.rmtree(Path(there) / uri, ignore_errors=True)
    AdapterFiles(Path(there), shelf).verified(uri, digest)
"""


def kill_in_the_middle(tmp_path, url, times, *, seconds, environment=None):
    """Kills a process that puts and gets; checks after each kill that nothing is half there."""
    big = {f"file-{n}.bin": os.urandom(400_000) for n in range(5)}
    here = Machine(tmp_path, "here", open_shelf(url))
    there = Machine(tmp_path, "there", open_shelf(url))
    digest = here.make(content=big)
    here.files.share(URI)
    for number in range(times):
        command = [sys.executable, "-c", WORKER, url, here.folder, there.folder, URI, digest]
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        assert process.stdout.readline() == b"begun\n"
        try:
            process.wait(seconds * (number + 1) / times)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        place = there.folder / URI
        if place.exists() and len(list(place.iterdir())) != len(big):
            # Our own worker removes its copy before it takes the next one.
            shutil.rmtree(place)
        assert here.files.shared() == {URI}
        fresh = Machine(tmp_path, f"fresh-{number}", open_shelf(url))
        assert folder_digest(fresh.files.verified(URI, digest))[0] == digest
        assert folder_digest(there.files.verified(URI, digest))[0] == digest
        shutil.rmtree(fresh.folder)


def test_a_kill_leaves_nothing_half_on_a_shelf_or_here(tmp_path):
    kill_in_the_middle(tmp_path, f"file://{tmp_path}/shelf", 4, seconds=0.2)


@pytest.mark.slow
def test_fifty_kills_leave_nothing_half_on_a_shelf_or_here(tmp_path):
    kill_in_the_middle(tmp_path, f"file://{tmp_path}/shelf", 50, seconds=0.5)
