"""Bodies that answer /setup and /versions, and what an item of /predict says beside its regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


def setup_answer(version: str | None) -> bytes:
    """Body that answers POST /setup.

    Args:
        version: the version stamped on predictions, or None while it is not known; Label Studio
            asks again whenever the two differ.
    """
    return msgspec.json.encode({"model_version": version})


def versions_answer(versions: Sequence[str]) -> bytes:
    """Body that answers GET /versions; each version once, in the given order."""
    return msgspec.json.encode({"versions": list(dict.fromkeys(versions))})


def with_problem(item: bytes, *, error: str, detail: str) -> bytes:
    """Adds to one item of an answer why it has no regions; Label Studio ignores the key."""
    fields = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
    problem = msgspec.json.encode({"error": error, "detail": detail})
    return msgspec.json.encode(fields | {"problem": msgspec.Raw(problem)})


def with_absent(item: bytes, images: Sequence[int]) -> bytes:
    """Adds to one item which images, 0-based, do not show a clicked part; the editor ignores it."""
    fields = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(fields | {"absent": msgspec.Raw(msgspec.json.encode(images))})


def prepended(result: bytes, first: Mapping[str, object]) -> bytes:
    """JSON list of results with one more at its beginning."""
    rest = msgspec.json.decode(result, type=list[msgspec.Raw])
    return msgspec.json.encode([first, *rest])


def predict_request(
    tasks: object, *, label_config: str | None, project: object, context: object
) -> bytes:
    """Body of POST /predict from its decoded fields, as label-studio-ml hands them over."""
    body = {"tasks": tasks, "label_config": label_config, "params": {"context": context}}
    return msgspec.json.encode(body | {"project": None if project is None else str(project)})


def event_request(action: str, fields: Mapping[str, object]) -> bytes:
    """Body of POST /webhook from its decoded fields, as label-studio-ml hands them over."""
    return msgspec.json.encode({**fields, "action": action})


def answer_items(answer: bytes) -> list[dict[str, object]]:
    """Decoded items of the answer to POST /predict."""
    return msgspec.json.decode(answer, type=dict[str, list[dict[str, object]]])["results"]
