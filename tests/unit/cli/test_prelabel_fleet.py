"""`calico prelabel --address`: actors elsewhere answer; this process writes each group once."""

from __future__ import annotations

import functools
import importlib.util
import socket
from collections import Counter, deque
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.cli.prelabel import run_job, run_pool
from backend.cli.prelabel_fleet import ActorPool, begin_answers
from backend.cli.prelabel_manifest import read_manifest
from backend.cli.prelabel_parts import PartFolder
from backend.cli.prelabel_workers import PrelabelError, no_such_file
from backend.errors import FleetError, MediaUnavailableError, SettingsError
from backend.fleet.actors import ActorAnswer
from calico_model.errors import InvalidConfigError
from tests.unit.cli.prelabel_double import lines_of, load_noting, load_together
from tests.unit.cli.test_prelabel import draw, many, rows


class LocalActors:
    """Actors in this process, which answer in the order in which they were asked.

    Args:
        begin: makes what answers, from the number of the actor.
        dies: whether an actor dies of a question, from its number and the groups.
    """

    def __init__(self, begin, dies=lambda _actor, _groups: False):
        self._begin, self._dies = begin, dies
        self._answering, self._answers = {}, deque()
        self.started = self.asked = 0
        self.is_closed = False

    def start(self):
        self.started += 1
        return self.started

    def submit(self, actor, question):
        if self._dies(actor, question):
            self._answers.append(ActorAnswer(actor, death="exit status 9"))
            return
        assert not any(one.actor == actor for one in self._answers), "one question at a time"
        self.asked += len(question) > 0
        machine = f"10.0.0.{actor}"
        try:
            if actor not in self._answering:
                self._answering[actor] = self._begin(actor)
            value = self._answering[actor](question)
            self._answers.append(ActorAnswer(actor, value, machine))
        except MediaUnavailableError as error:
            self._answers.append(ActorAnswer(actor, machine=machine, failure=str(error)))

    def ready(self, _timeout_s):
        return [self._answers.popleft()] if self._answers else []

    def close(self):
        self.is_closed = True


class FleetJob:
    """A job on actors in this process, with a model that notes its work."""

    def __init__(self, tmp_path, manifest, load=load_noting):
        self.out, self.log = tmp_path / "out", tmp_path / "log"
        self.groups = read_manifest(manifest)
        self._load = functools.partial(load, self.log, tmp_path / "gate")

    def begin(self, _actor=0):
        return begin_answers(self._load, Path("/nowhere"))

    def run(self, *, workers=2, size=3, at_once=1, actors=None):
        self.actors = actors or LocalActors(self.begin)
        parts = PartFolder(self.out)
        return run_pool(
            self.groups, parts, ActorPool(self.actors, parts, workers, at_once), size=size
        )

    def documents(self):
        return {one["group"]: one for one in PartFolder(self.out).documents()}

    def lines(self):
        return Counter(one["group"] for one in PartFolder(self.out).documents())


def each_once(job):
    return dict.fromkeys((group.key for group in job.groups), 1)


def test_the_files_are_those_of_local_workers(tmp_path):
    manifest = many(tmp_path, 7)
    with Path(manifest).open("a") as file:
        file.write("gone.png\n")
    job = FleetJob(tmp_path, manifest)
    report = job.run()
    assert (report["groups"], report["done"], report["problems"]) == (8, 8, 1)
    assert job.actors.started == 2
    assert job.actors.is_closed
    load = functools.partial(load_noting, tmp_path / "other-log", tmp_path / "gate")
    run_job(job.groups, tmp_path / "local", load, workers=1, size=3)
    files = [
        {path.name: path.read_bytes() for path in folder.glob("part-*.jsonl")}
        for folder in (job.out, tmp_path / "local")
    ]
    assert len(files[0]) == 3
    assert files[0] == files[1]
    again = job.run()
    assert (again["already"], job.actors.asked) == (8, 0)


def test_another_actor_goes_on_behind_the_last_line_of_one_that_died(tmp_path):
    job = FleetJob(tmp_path, many(tmp_path, 12))
    asked = Counter()

    def dies(actor, groups):
        asked[actor] += len(groups)
        return actor == 1 and asked[actor] == 3

    job.run(size=5, actors=LocalActors(job.begin, dies))
    assert job.lines() == each_once(job)
    assert lines_of(job.log) == 12, "what was written is not predicted again"
    assert job.actors.started == 3
    assert asked[3], "the actor in its place works, too"


def test_a_group_that_kills_its_actors_ends_the_job_with_its_name(tmp_path):
    names = [draw(tmp_path / f"{width}.png", width=width).name for width in (8, 9, 10, 11)]
    job = FleetJob(tmp_path, rows(tmp_path, *([name] for name in names)))

    def dies(_actor, groups):
        return any(group.images[0].endswith("10.png") for group in groups)

    with pytest.raises(PrelabelError, match=r"3 workers died of the group .*/10.png \(exit st"):
        job.run(workers=1, size=4, actors=LocalActors(job.begin, dies))
    assert job.actors.is_closed
    assert lines_of(job.log) == 2
    job.run()
    assert job.lines() == each_once(job)
    assert lines_of(job.log) == 4, "the next run goes on behind what was done"
    together = FleetJob(tmp_path / "together", str(tmp_path / "groups.csv"))
    together.out.parent.mkdir()
    with pytest.raises(PrelabelError, match=r"died of 4 groups, the first .*/8.png"):
        together.run(at_once=4, size=4, actors=LocalActors(together.begin, dies))


def test_actors_that_die_while_they_load_end_the_job(tmp_path):
    job = FleetJob(tmp_path, many(tmp_path, 2))
    with pytest.raises(PrelabelError, match="3 workers died before they had a model"):
        job.run(actors=LocalActors(job.begin, lambda _actor, _groups: True))
    assert job.actors.is_closed


def test_one_machine_where_actors_die_does_not_end_the_others_work(tmp_path):
    job = FleetJob(tmp_path, many(tmp_path, 9))
    job.run(size=1, actors=LocalActors(job.begin, lambda actor, _groups: actor % 2 == 0))
    assert job.lines() == each_once(job)


def test_other_weights_on_another_machine_are_refused(tmp_path):
    job = FleetJob(tmp_path, many(tmp_path, 4))

    def begin(actor):
        return job.begin() if actor == 1 else lambda _groups: ("noting-2", [])

    with pytest.raises(PrelabelError, match=r"machine 10.0.0.2 .* noting-2, another one noting-1"):
        job.run(size=1, actors=LocalActors(begin))


def test_an_image_that_only_this_machine_sees_is_no_problem_of_its_group(tmp_path):
    job = FleetJob(tmp_path, many(tmp_path, 1))

    def sees_nothing(groups):
        return "noting-1", [
            {"group": one.key, "images": one.images, "problem": no_such_file(one.images[0])}
            for one in groups
        ]

    with pytest.raises(PrelabelError, match=r"/0.png: machine 10.0.0.1 does not see it; expected"):
        job.run(actors=LocalActors(lambda _actor: sees_nothing))
    assert not job.documents()
    assert job.run()["problems"] == 0


def test_an_image_that_cannot_be_reached_ends_the_job_with_its_name(tmp_path):
    (tmp_path / "folder.png").mkdir()
    job = FleetJob(tmp_path, rows(tmp_path, ["folder.png"]))
    with pytest.raises(PrelabelError, match=r"machine 10.0.0.1: .*folder.png: cannot be reached"):
        job.run()


def test_relative_names_count_from_the_folder_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = Path(many(tmp_path, 2)).name
    job = FleetJob(tmp_path, manifest)
    assert job.groups[0].images == ("0.png",)
    monkeypatch.chdir("/")  # where an actor begins
    load = functools.partial(load_noting, job.log, tmp_path / "gate")
    version, documents = begin_answers(load, tmp_path)(job.groups)
    assert version == "noting-1"
    assert all(one["regions"] for one in documents)


def test_groups_of_a_question_are_predicted_together(tmp_path):
    job = FleetJob(tmp_path, many(tmp_path, 8), load_together)
    job.run(workers=1, size=8, at_once=3)
    assert job.log.with_suffix(".together").read_text().split() == ["3", "3", "2"]
    assert job.lines() == each_once(job)


def test_a_job_that_is_stopped_finishes_what_is_under_way(tmp_path):
    job = FleetJob(tmp_path, many(tmp_path, 9))
    parts, actors, done = PartFolder(job.out), LocalActors(job.begin), []
    with parts.alone(), ActorPool(actors, parts, 2) as pool:
        chunks = parts.chunks(job.groups, pool.version, 9)
        pool.run(chunks, lambda: done.append(1), lambda: len(done) >= 2)
    assert actors.asked == len(done) == lines_of(job.log) == 3
    assert not job.documents()
    job.run()
    assert job.lines() == each_once(job)
    assert lines_of(job.log) == 9


@pytest.mark.parametrize("option", ["--cpus", "--gpus"])
def test_what_an_actor_counts_for_needs_a_fleet(tmp_path, option):
    draw(tmp_path / "a" / "1.png")
    words = ["prelabel", str(tmp_path / "a"), "--out", str(tmp_path / "out"), option, "1"]
    result = CliRunner().invoke(command_tree(words), words)
    assert isinstance(result.exception, InvalidConfigError)
    assert str(result.exception) == f"{option}: expected it with --address"


def test_no_card_is_named_on_a_fleet(tmp_path):
    draw(tmp_path / "a" / "1.png")
    words = ["prelabel", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "--address", "h:1"]
    result = CliRunner().invoke(command_tree(words), [*words, "--device", "cuda:1"])
    assert isinstance(result.exception, SettingsError)
    assert "--device: expected cpu or cuda with --address, got cuda:1" in str(result.exception)


@pytest.mark.parametrize("address", ["here", "here:", "here:65536", "http://here:1"])
def test_a_wrong_address_is_named_by_its_option(tmp_path, address):
    draw(tmp_path / "a" / "1.png")
    words = ["prelabel", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "--address", address]
    result = CliRunner().invoke(command_tree(words), words)
    assert isinstance(result.exception, SettingsError)
    expected = f"--address: expected HOST:PORT with a port from 1 to 65535, got {address!r}"
    assert str(result.exception) == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("CALICO_DATABASE_URL", "postgresql+psycopg://a@127.0.0.1:1/b")
    draw(tmp_path / "a" / "1.png")
    words = ["prelabel", str(tmp_path / "a"), "--out", str(tmp_path / "out")]
    with socket.create_server(("127.0.0.1", 0)) as head:
        words += ["--address", f"127.0.0.1:{head.getsockname()[1]}"]
        result = CliRunner().invoke(command_tree(words), words)
    assert isinstance(result.exception, FleetError)
    assert "pip install 'calico-labeling[fleet]'" in str(result.exception)
