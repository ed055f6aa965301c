"""`calico prelabel`: every group of a large list exactly once, whatever is killed."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.prelabel import find_version, run_job
from backend.cli.prelabel_manifest import read_manifest
from backend.cli.prelabel_parts import Chunk, PartFolder
from backend.cli.prelabel_workers import PrelabelError
from backend.errors import SettingsError
from backend.serving.loaded_model import load_base_model
from backend.settings import load_settings
from backend.storage.store import open_store
from research.bench.prelabel_kills import oldest_worker
from tests.integration.studio_double import PROJECT
from tests.servers.fleet import register
from tests.unit.cli.prelabel_double import lines_of, load_first, load_noting, load_together
from tests.unit.modeling.adapters import save_adapter

ROOT = Path(__file__).parents[3]


def draw(path, *, width=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, width, 3), 90, np.uint8)).save(path)
    return path


def rows(tmp_path, *groups):
    """A CSV file with one row per group."""
    manifest = tmp_path / "groups.csv"
    manifest.write_text("left,right\n" + "".join(",".join(row) + "\n" for row in groups))
    return str(manifest)


class Job:
    """A job with a model that notes its work."""

    def __init__(self, tmp_path, manifest):
        self.out, self.log, self.gate = (tmp_path / name for name in ("out", "log", "gate"))
        self.manifest = manifest

    def run(self, *, workers=1, size=3):
        load = functools.partial(load_noting, self.log, self.gate)
        return run_job(read_manifest(self.manifest), self.out, load, workers=workers, size=size)

    def documents(self):
        return list(PartFolder(self.out).documents())


def many(tmp_path, count):
    draw(tmp_path / "one.png")
    names = [f"{number}.png" for number in range(count)]
    for name in names:
        (tmp_path / name).hardlink_to(tmp_path / "one.png")
    return rows(tmp_path, *([name] for name in names))


def test_folders_are_groups_and_large_ones_several(tmp_path):
    others = ("a/note.txt", ".c/x.png")
    for name in ("a/2.png", "a/10.png", *(f"b/{n}.jpg" for n in range(10)), *others):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    found = [[Path(i).name for i in g.images] for g in read_manifest(str(tmp_path))]
    assert found == [
        ["2.png", "10.png"],
        [f"{n}.jpg" for n in range(8)],
        ["8.jpg", "9.jpg"],
    ]


def test_rows_are_groups_named_from_the_folder_of_the_file(tmp_path):
    manifest = rows(tmp_path, ["x/a.png", "s3://bucket/b.png"], ["c.png"], [], ["c.png"])
    assert [g.images for g in read_manifest(manifest)] == [
        (f"{tmp_path}/x/a.png", "s3://bucket/b.png"),
        (f"{tmp_path}/c.png",),
    ]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([["a.png"], ["a.png", "notes"]], "row 3: expected images .* got 'notes'"),
        ([["a.png"] * 9], "row 2: expected 1 to 8 images, got 9"),
        ([], "expected images in .*, found none"),
    ],
)
def test_what_is_no_list_of_groups_is_refused(tmp_path, groups, words):
    with pytest.raises(SettingsError, match=words):
        read_manifest(rows(tmp_path, *groups))
    with pytest.raises(SettingsError, match="expected a folder"):
        read_manifest(str(tmp_path / "nowhere"))


def test_every_group_has_one_line_and_a_second_run_does_nothing(tmp_path):
    job = Job(tmp_path, many(tmp_path, 7))
    first = job.run()
    assert (first["groups"], first["done"], first["problems"], first["already"]) == (7, 7, 0, 0)
    assert len(list(job.out.glob("part-*.jsonl"))) == 3
    document = job.documents()[0]
    assert document["version"] == "noting-1"
    assert document["regions"][0]["label"] == "lid"
    assert document["images"][0]["file"].endswith(".png")
    again = job.run(size=5)
    assert (again["done"], again["already"]) == (7, 7)
    assert lines_of(job.log) == 7


def test_a_longer_list_adds_what_is_new(tmp_path):
    job = Job(tmp_path, many(tmp_path, 4))
    job.run()
    draw(tmp_path / "new.png")
    with Path(job.manifest).open("a") as file:
        file.write("new.png\n")
    assert job.run()["already"] == 4
    assert Counter(one["group"] for one in job.documents()).most_common(1)[0][1] == 1
    assert len(job.documents()) == 5


def test_what_cannot_be_read_is_a_problem_of_its_own_group(tmp_path):
    draw(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    job = Job(tmp_path, rows(tmp_path, ["good.png"], ["bad.png"], ["gone.png"]))
    assert job.run()["problems"] == 2
    problems = [one["problem"] for one in job.documents() if "problem" in one]
    assert any("gone.png: no such file" in problem for problem in problems)


def test_predictions_of_another_version_are_not_mixed_in(tmp_path):
    job = Job(tmp_path, many(tmp_path, 2))
    job.run()
    (part,) = job.out.glob("part-*.jsonl")
    part.write_text(part.read_text().replace("noting-1", "noting-0", 1))
    with pytest.raises(SettingsError, match="holds predictions of noting-0"):
        job.run()


def test_a_group_that_kills_its_workers_ends_the_job_with_its_name(tmp_path):
    draw(tmp_path / "huge.png", width=13)
    job = Job(tmp_path, rows(tmp_path, ["huge.png"]))
    with pytest.raises(PrelabelError, match=r"3 workers died .*huge\.png \(exit status 9\)"):
        job.run()


def test_a_worker_that_dies_before_it_has_read_its_chunk_is_replaced(tmp_path):
    job, started = Job(tmp_path, many(tmp_path, 4)), tmp_path / "started"
    job.gate.write_text("4")

    def kill_the_second():
        while lines_of(started) < 2 or lines_of(job.log) < 2:
            time.sleep(0.01)
        os.kill(int(started.read_text().split()[1]), signal.SIGKILL)
        while lines_of(started) < 3:  # the one that takes its place
            time.sleep(0.01)
        job.gate.unlink()

    killing = threading.Thread(target=kill_the_second, daemon=True)
    killing.start()
    load = functools.partial(load_first, started, job.log, job.gate)
    report = run_job(read_manifest(job.manifest), job.out, load, workers=2, size=2)
    killing.join()
    assert report["done"] == len(job.documents()) == lines_of(job.log) == 4


def test_a_second_job_is_kept_out(tmp_path):
    job = Job(tmp_path, many(tmp_path, 1))
    with PartFolder(job.out).alone(), pytest.raises(SettingsError, match="another job"):
        job.run()


def test_a_line_that_was_cut_is_written_again(tmp_path):
    groups = read_manifest(many(tmp_path, 3))
    parts, chunk = PartFolder(tmp_path / "out"), Chunk(groups, "v")
    with parts.alone():
        with pytest.raises(AssertionError), parts.writing(chunk) as lines:
            lines.add({"group": groups[0].key})
        (begun,) = (tmp_path / "out" / ".incoming").glob("part-*.jsonl")
        with begun.open("ab") as file:
            file.write(b'{"group": "cu')
        assert parts.chunks(groups, "v", 1) == [chunk], "as it was, whatever the size is now"
        with parts.writing(chunk) as lines:
            assert list(lines.left) == list(groups[1:])
            for group in groups[1:]:
                lines.add({"group": group.key})
    assert [one["group"] for one in parts.documents()] == [group.key for group in groups]


def test_groups_are_predicted_together_and_written_as_if_alone(tmp_path):
    widths = [8, 9, 10, 11, 12, 14, 15]
    names = [draw(tmp_path / f"{width}.png", width=width).name for width in widths]
    manifest = rows(tmp_path, *[(name, name) for name in names], ("none.png", names[0]))
    documents = []
    for at_once, load in ((1, load_noting), (3, load_together)):
        out, log = tmp_path / f"out-{at_once}", tmp_path / f"log-{at_once}"
        model = functools.partial(load, log, tmp_path / "gate")
        groups = read_manifest(manifest)
        report = run_job(groups, out, model, workers=1, size=8, at_once=at_once)
        assert report["done"] == 8
        documents.append({one["group"]: one for one in PartFolder(out).documents()})
    alone, together = documents
    (refused,) = (
        key for key, one in together.items() if one.get("problem", "").endswith("refused")
    )
    assert together[refused]["images"][0].endswith("11.png")
    for key, one in together.items():
        assert key == refused or one == alone[key]
    # The second batch is refused as a whole, and asked one by one; the third has a missing file.
    assert (tmp_path / "log-3.together").read_text().split() == ["3", "3"]


DRIVER = """
import functools, json, sys
from pathlib import Path
from backend.cli.prelabel import find_version, run_job
from backend.cli.prelabel_manifest import read_manifest
from tests.unit.cli.prelabel_double import load_noting
manifest, out, log, gate, size = sys.argv[1:]
load = functools.partial(load_noting, Path(log), Path(gate))
print(json.dumps(run_job(read_manifest(manifest), Path(out), load, workers=2, size=int(size))))
"""


def start(job, size):
    arguments = [job.manifest, job.out, job.log, job.gate, size]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )


def kill_three_workers_and_the_driver(job, start, count):
    """Runs a job of `count` groups with these kills, and again; returns the last report."""
    job.gate.write_text("0")
    driver = start()
    for share in (1, 2, 3):
        let_begin(job, driver, share * count // 5)
        oldest_worker(driver).send_signal(signal.SIGKILL)
    let_begin(job, driver, 4 * count // 5)
    driver.kill()
    driver.wait()
    driver.stdout.close()  # workers that wait at the gate hold its other end
    assert lines_of(job.log) < count, "there is something left to do"
    job.gate.unlink()
    driver = start()
    report = json.loads(driver.communicate()[0])
    assert driver.returncode == 0
    assert count <= lines_of(job.log) <= 1.1 * count
    return report


def let_begin(job, driver, count):
    """Lets so many groups be begun, and waits until one more waits in a worker."""
    job.gate.write_text(str(count))
    deadline = time.monotonic() + 300
    while lines_of(job.log) <= count:
        assert driver.poll() is None, "the driver has ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def predict_killed(job, count, size):
    report = kill_three_workers_and_the_driver(job, lambda: start(job, size), count)
    assert report["done"] == report["groups"] == count
    groups = Counter(one["group"] for one in job.documents())
    assert len(groups) == count
    assert set(groups.values()) == {1}


def test_three_workers_and_the_driver_are_killed(tmp_path):
    predict_killed(Job(tmp_path, many(tmp_path, 60)), 60, 8)


@pytest.mark.slow
def test_three_workers_and_the_driver_of_a_thousand_groups_are_killed(tmp_path):
    predict_killed(Job(tmp_path, many(tmp_path, 1000)), 1000, 50)


def test_the_command_predicts_with_the_shipped_weights(tmp_path):
    draw(tmp_path / "a" / "1.png", width=9)
    draw(tmp_path / "a" / "2.png", width=9)
    words = ["prelabel", str(tmp_path / "a"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command_tree(words), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["groups"], report["done"], report["problems"], report["stopped"]) == (
        1,
        1,
        0,
        False,
    )
    (document,) = PartFolder(tmp_path / "out").documents()
    assert document["version"].startswith("calico-tiny-")


def test_weights_that_cannot_be_used_are_named_in_one_sentence(tmp_path):
    draw(tmp_path / "a" / "1.png")
    words = ["prelabel", str(tmp_path / "a"), "--out", str(tmp_path / "out")]
    words += ["--weights", str(tmp_path / "gone")]
    result = CliRunner().invoke(command_tree(words), words)
    assert isinstance(result.exception, PrelabelError)
    assert str(result.exception).startswith("--weights: gone/config.json: missing")


@pytest.mark.parametrize("place", ["s3://bucket/photographs", "s3://bucket/groups.csv"])
def test_a_bucket_needs_its_library_and_no_weights_are_loaded(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SettingsError, match=r"^MANIFEST: s3:// needs s3fs; install calico"):
        read_manifest(place)


def test_what_a_project_has_learned_predicts(tmp_path):
    draw(tmp_path / "a" / "1.png", width=9)
    settings = load_settings(data_dir=tmp_path / "data")
    folder = settings.adapters_dir / str(PROJECT) / "learned-1"
    folder.parent.mkdir(parents=True)
    base = load_base_model(settings)
    save_adapter(base.model.adapters.model, folder, base=base.fingerprint)
    store = open_store(settings.store_url)
    version = register(store, folder)
    store.close()
    out = tmp_path / "out"
    words = [
        "prelabel",
        str(tmp_path / "a"),
        "--out",
        str(out),
        "--data-dir",
        str(settings.data_dir),
    ]
    result = CliRunner().invoke(
        command_tree(words), [*words, "--version", version], catch_exceptions=False
    )
    assert json.loads(result.stdout.splitlines()[-1])["done"] == 1
    (document,) = PartFolder(out).documents()
    assert document["version"] == version
    with pytest.raises(SettingsError, match="--version: no version v9; see `calico versions`"):
        find_version(settings, "v9")
