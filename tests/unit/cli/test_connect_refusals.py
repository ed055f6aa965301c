"""What connecting refuses before Label Studio would, in its own words."""

from __future__ import annotations

import json

import httpx
import pytest

from backend.cli import connect
from backend.cli.connect import Ends, connect_project
from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.onboarding import RefusedAddresses

IMAGE = '<Image name="i" value="$image"/>'


def ends(config, requests):
    def answer(request):
        requests.append(request)
        return httpx.Response(200, json={"id": 7, "title": "t", "label_config": config})

    client = LabelStudioClient("http://ls", "0" * 40, transport=httpx.MockTransport(answer))
    return Ends(client, "http://127.0.0.1:9090", None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("<View></View>", "expected an <Image> tag"),
        (f"<View>{IMAGE}</View>", "expected a <BrushLabels>"),
        (
            f'<View>{IMAGE}<PolygonLabels name="p" toName="i"><Label value="a"/></PolygonLabels>'
            "</View>",
            "expected a <BrushLabels>",
        ),
        (
            "<View>"
            + "".join(
                f'<Image name="i{n}" value="$i{n}"/>'
                f'<BrushLabels name="m{n}" toName="i{n}"><Label value="a"/></BrushLabels>'
                for n in range(9)
            )
            + "</View>",
            "at most 8 <Image> tags, got 9",
        ),
    ],
)
def test_a_config_that_cannot_be_served_is_refused_with_the_reason(config, message):
    requests = []
    with pytest.raises(LabelStudioError, match=message) as caught:
        connect_project(ends(config, requests), 7)
    assert "project 7" in str(caught.value)
    assert [request.method for request in requests] == ["GET"]  # nothing was changed


GOOD_CONFIG = (
    f'<View>{IMAGE}<BrushLabels name="m" toName="i"><Label value="a"/></BrushLabels></View>'
)
OLD_HEADERS = {"Authorization": "Basic cmlnaHQ6b25l"}


class StudioThatRefuses:
    """A Label Studio with one connected project, whose backend refuses the new credentials."""

    def __init__(self, hooks):
        self.hooks = {hook["id"]: hook for hook in hooks}

    def __call__(self, request):
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path == "/api/projects/7/":
            return httpx.Response(200, json={"id": 7, "title": "t", "label_config": GOOD_CONFIG})
        if path == "/api/ml/" and request.method == "GET" or path == "/api/ml":
            return httpx.Response(200, json=[])
        if path.startswith("/api/ml"):
            refusal = {"detail": "can't connect to ML backend: 401"}
            return httpx.Response(400, json=refusal)
        if request.method == "GET":
            return httpx.Response(200, json=list(self.hooks.values()))
        if request.method == "POST" and body.get("actions"):
            return httpx.Response(400, json={"actions": ["no such action"]})
        if request.method == "POST":
            hook = body | {"id": 1 + len(self.hooks), "actions": []}
            self.hooks[hook["id"]] = hook
            return httpx.Response(201, json=hook)
        number = int(path.rstrip("/").rpartition("/")[2])
        if request.method == "DELETE":
            del self.hooks[number]
            return httpx.Response(204)
        self.hooks[number] |= body
        return httpx.Response(200, json=self.hooks[number])


def webhook(number, headers):
    flags = {"is_active": True, "send_payload": True, "send_for_all_actions": True, "actions": []}
    return {"id": number, "url": "http://127.0.0.1:9090/webhook", "headers": headers} | flags


@pytest.mark.parametrize(
    "hooks",
    [[webhook(1, OLD_HEADERS)], [webhook(1, OLD_HEADERS), webhook(2, {})], []],
    ids=["one", "two", "none"],
)
@pytest.mark.parametrize("credentials", [None, ("wrong", "word")])
def test_a_refused_connection_leaves_the_webhooks_as_they_were(hooks, credentials, monkeypatch):
    allowed = RefusedAddresses(predictions=False, corrections=False)
    monkeypatch.setattr(connect, "refused_addresses", lambda *_: allowed)  # asks past the client
    studio = StudioThatRefuses([dict(hook) for hook in hooks])
    client = LabelStudioClient("http://ls", "0" * 40, transport=httpx.MockTransport(studio))
    with pytest.raises(LabelStudioError, match="refuses these credentials"):
        connect_project(Ends(client, "http://127.0.0.1:9090", credentials), 7)
    assert [hook["headers"] for hook in studio.hooks.values()] == [h["headers"] for h in hooks]
