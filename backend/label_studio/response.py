"""JSON bodies of the responses to /predict, /setup and /versions.

A response to /predict has one item per task: its results, its score and the model version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from backend.decoding import read_json


def setup_answer(version: str | None) -> bytes:
    """Returns the response body of POST /setup.

    Args:
        version: model version of the predictions, or None while it is not known; Label Studio
            asks again when the two differ.
    """
    return msgspec.json.encode({"model_version": version})


def versions_answer(versions: Sequence[str]) -> bytes:
    """Returns the response body of GET /versions; each version once, in the given order."""
    return msgspec.json.encode({"versions": list(dict.fromkeys(versions))})


def predict_item(result: bytes, *, score: float, version: str) -> bytes:
    """Returns the item of one task with its JSON list of results."""
    return msgspec.json.encode(
        {"result": msgspec.Raw(result), "score": score, "model_version": version}
    )


def empty_item(version: str) -> bytes:
    """Returns the item of a task without usable images: a prediction without regions."""
    return predict_item(b"[]", score=0.0, version=version)


def not_yet_item(version: str) -> bytes:
    """Returns the item of an unfinished task: Label Studio stores nothing and may ask again."""
    return msgspec.json.encode({"model_version": version})


def with_problem(item: bytes, *, error: str, detail: str) -> bytes:
    """Adds to an item why it has no regions; Label Studio ignores the key."""
    fields = read_json(item, dict[str, msgspec.Raw])
    problem = msgspec.json.encode({"error": error, "detail": detail})
    return msgspec.json.encode(fields | {"problem": msgspec.Raw(problem)})


def with_absent(item: bytes, images: Sequence[int]) -> bytes:
    """Adds to an item which images, 0-based, do not show a clicked part; the editor ignores it."""
    fields = read_json(item, dict[str, msgspec.Raw])
    return msgspec.json.encode(fields | {"absent": msgspec.Raw(msgspec.json.encode(images))})


def prepended(result: bytes, first: Mapping[str, object]) -> bytes:
    """Returns a JSON list of results with one more result at its beginning."""
    rest = read_json(result, list[msgspec.Raw])
    return msgspec.json.encode([first, *rest])


def predict_answer(items: Sequence[bytes]) -> bytes:
    """Returns the response body of POST /predict: one item per task, in request order."""
    return b'{"results":[' + b",".join(items) + b"]}"


def answer_items(answer: bytes) -> list[dict[str, object]]:
    """Returns the decoded items of a response body of POST /predict."""
    return read_json(answer, dict[str, list[dict[str, object]]])["results"]
