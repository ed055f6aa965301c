"""Several `calico serve` on one PostgreSQL: any request at any server, one answer everywhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from calico_model.data.synthetic import Stream, draw_group, group_rng, labeled_group
from research.bench.balancer import running_balancer
from research.bench.chains import Chain, ready_database
from research.bench.fleet import answers, several_servers
from research.bench.postgres import find_binaries
from research.bench.server import BenchServer
from tests.integration.conftest import PAYLOADS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_binaries() is None, reason="no PostgreSQL is installed"),
]
JSON = {"Content-Type": "application/json"}
SIDE = (480, 640)  # of the images that the captured clicks were made on
UPLOADS = "/data/upload/7/"
GOLDEN = sorted(PAYLOADS.glob("predict_*.json"))


@pytest.fixture(scope="module")
def database():
    with ready_database() as url:
        yield url


@pytest.fixture(scope="module")
def servers(database):
    with several_servers(2, database) as started:
        for number in range(1, 5):
            _draw(started[0], number)
        yield started


@pytest.fixture(scope="module")
def alone():
    with ready_database() as url, several_servers(1, url) as (server,):
        yield server


def _draw(server, number):
    """Writes the image `imgN.png` of the captured requests: cups and the like on 640 x 480."""
    drawn = draw_group(group_rng(Stream.EVALUATION, 11, number), group_size=2, size_px=480)
    image = labeled_group(drawn).group.images[0]
    wide = np.pad(image, ((0, 0), (80, 80), (0, 0)), mode="edge")
    assert wide.shape == (*SIDE, 3)
    Image.fromarray(wide).save(server.files / f"img{number}.png")


def golden(path):
    """A captured request about the images of `_draw`."""
    body = json.loads(path.read_text())["body"]
    text = json.dumps(body)
    for number in range(1, 5):
        for name in {word for word in text.split('"') if word.endswith(f"-img{number}.png")}:
            text = text.replace(name, f"/data/local-files/?d=img{number}.png")
    assert UPLOADS not in text
    return text.encode()


def asked(server, body):
    reply = server.ask("POST", "/predict", body, JSON)
    assert reply.status == 200
    assert b"problem" not in reply.body
    return reply.body


def test_golden_requests_have_equal_answers_at_both_servers(servers):
    assert len(GOLDEN) == 10
    first, second = servers
    for number, path in enumerate(GOLDEN):
        body = golden(path)
        one, other = (first, second) if number % 2 else (second, first)
        assert asked(one, body) == asked(other, body) == asked(one, body), path.stem


def chain(number, clicks=10):
    drawn = draw_group(group_rng(Stream.EVALUATION, 5, number), group_size=2, size_px=256)
    rng = np.random.default_rng(number)
    places = tuple((float(x), float(y)) for x, y in rng.uniform(10, 90, (clicks, 2)))
    return Chain(labeled_group(drawn).group.images, places, 100 + number)


def test_clicks_that_alternate_between_servers_are_answered_as_by_one(servers, alone):
    chains = [chain(number) for number in range(6)]
    assert answers(servers, chains) == answers([alone], chains)


def test_a_click_on_a_task_that_no_server_has_predicted_is_the_same_everywhere(servers, alone):
    one = chain(7, clicks=3)
    clicks = list(one.bodies(servers[0]))[1:]  # the task is not opened first
    found = [asked(servers[number % 2], body) for number, body in enumerate(clicks)]
    assert found == [asked(servers[(number + 1) % 2], body) for number, body in enumerate(clicks)]


def test_with_one_server_killed_the_others_go_on_with_the_same_answers(database, alone):
    one = chain(8)
    with several_servers(2, database) as (first, second):
        before = answers([first, second], [one])
        with running_balancer([first.port, second.port]) as balancer:
            through = BenchServer(balancer.server_port, first.files)
            first.kill()
            assert answers([through], [one]) == before == answers([alone], [one])
