"""What connecting refuses before Label Studio would, in its own words."""

from __future__ import annotations

import httpx
import pytest

from backend.cli.connect import Ends, connect_project
from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudioClient

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
