"""Request bodies of /predict and /setup -> typed requests.

A request that cannot be understood is refused as a whole; a task without usable images only carries
its problem. The two functions at the end go the other way: they build the bodies of /predict and
/webhook for label-studio-ml, which hands over decoded fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from backend.decoding import read_json
from backend.errors import InvalidLabelConfigError, RequestError
from backend.label_studio.canvas import Drawings, KnownDrawing, read_canvas
from backend.label_studio.interactive_context import read_prompts, read_question
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.task import decode_task
from backend.label_studio.wire import (
    Id,
    check_body,
    decode,
    decode_body,
    decode_results,
)
from backend.types import PredictRequest, Prompt, SetupRequest

MAX_TASKS = 50_000
MAX_CONTEXT_RESULTS = 2_000  # a prompt and its attributes are one each
MAX_PROMPTS = 100  # the model corrects the mask once for each
MAX_PROMPT_LABEL = 1_000  # characters; it is compared with every region's
MAX_CANVAS = 2_000  # regions; each prompt looks at all of them

_CONTEXT = re.compile(rb'"context"\s*:\s*\{')
_T = TypeVar("_T")


class _WireTask(msgspec.Struct):
    id: Id | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def drawings(self) -> tuple[Drawings, ...]:
        """Drafts, annotations and predictions: the list that the editor shows first comes first."""
        raise NotImplementedError


class _KnownTask(_WireTask):
    """A task whose drawings could be decoded together with the body."""

    drafts: list[KnownDrawing] = []
    annotations: list[KnownDrawing] = []
    predictions: list[KnownDrawing] = []

    @property
    def drawings(self) -> tuple[Drawings, ...]:
        return self.drafts, self.annotations, self.predictions


class _OtherTask(_WireTask):
    """A task whose drawings are decoded one by one, when they are needed."""

    drafts: msgspec.Raw = msgspec.Raw(b"[]")
    annotations: msgspec.Raw = msgspec.Raw(b"[]")
    predictions: msgspec.Raw = msgspec.Raw(b"[]")

    @property
    def drawings(self) -> tuple[Drawings, ...]:
        return self.drafts, self.annotations, self.predictions


class _WireContext(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _WireParams(msgspec.Struct):
    context: _WireContext | None = None


class _WirePredict(msgspec.Struct, Generic[_T]):
    tasks: list[_T]
    label_config: str | None = None
    project: str | int | None = None
    params: _WireParams | None = None


class _WireSetup(msgspec.Struct):
    project: str | int | None = None
    schema: str | None = None
    hostname: str | None = None
    access_token: str | None = None


def parse_predict_request(body: bytes) -> PredictRequest:
    """Reads the body of POST /predict.

    Raises:
        RequestError: not JSON, a wrong type, or more context than an annotator makes; the field
            names the place.
        InvalidLabelConfigError: no labeling config, or one without the needed tags.
    """
    wire = _read_predict(body)
    if len(wire.tasks) > MAX_TASKS:
        # Each refused task costs a kilobyte of message; three bytes of "{}," must not.
        raise RequestError(
            f"expected at most {MAX_TASKS} tasks, got {len(wire.tasks)}", field="tasks"
        )
    if wire.label_config is None:
        raise InvalidLabelConfigError("expected the labeling config", field="label_config")
    schema = parse_label_config(wire.label_config)
    project_id = read_project_id(wire.project)
    context = wire.params.context if wire.params is not None else None
    raw, place = (context or _WireContext()).result, "params.context.result"
    results = decode_results(raw, place=place, most=MAX_CONTEXT_RESULTS)
    prompts = read_prompts(results, schema)
    _check_prompts(prompts, place)
    question = read_question(results, schema, prompts)
    looks_at_canvas = prompts or (question is not None and question.is_highlight)
    drawings = wire.tasks[0].drawings if wire.tasks and looks_at_canvas else ()
    return PredictRequest(
        tasks=tuple(
            decode_task(task.id, project_id, task.data, schema, place=f"tasks[{index}]")
            for index, task in enumerate(wire.tasks)
        ),
        schema=schema,
        project_id=project_id,
        prompts=prompts,
        is_interactive=context is not None,
        question=question,
        canvas=read_canvas(drawings, schema)[:MAX_CANVAS],
    )


def _read_predict(body: bytes) -> _WirePredict[_KnownTask] | _WirePredict[_OtherTask]:
    # The body of a click repeats every mask of its task: decoding body and drawings in one pass is
    # faster. The masks of other requests are not needed, so they stay raw.
    check_body(body, RequestError)
    if _has_context(body):
        with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return read_json(body, _WirePredict[_KnownTask])
    return decode(body, _WirePredict[_OtherTask], RequestError)


def _check_prompts(prompts: Sequence[Prompt], place: str) -> None:
    """Refuses more clicks and boxes than an annotator draws for one region."""
    if len(prompts) > MAX_PROMPTS:
        raise RequestError(
            f"expected at most {MAX_PROMPTS} clicks and boxes at once, got {len(prompts)}",
            field=place,
        )
    longest = max((len(prompt.label or "") for prompt in prompts), default=0)
    if longest > MAX_PROMPT_LABEL:
        raise RequestError(
            f"expected labels of at most {MAX_PROMPT_LABEL} characters, got {longest}", field=place
        )


def _has_context(body: bytes) -> bool:
    # Label Studio writes the context last, behind a megabyte of masks.
    last = body.rfind(b'"context"')
    return last >= 0 and bool(_CONTEXT.match(body, last) or _CONTEXT.search(body, 0, last))


def parse_setup_request(body: bytes) -> SetupRequest:
    """Reads the body of POST /setup; the labeling config is not looked at.

    Raises:
        RequestError: not JSON, or a wrong type; the field names the place.
    """
    wire = decode_body(body, _WireSetup, RequestError)
    return SetupRequest(
        project_id=read_project_id(wire.project),
        label_config=wire.schema or "",
        hostname=wire.hostname or None,
        access_token=wire.access_token or None,
    )


def read_project_id(project: str | int | None) -> int | None:
    """Returns the id in Label Studio's "14.1795191017" (id and creation time); None when absent.

    Raises:
        RequestError: another text.
    """
    if project is None or project == "":
        return None
    first = str(project).split(".")[0]
    if not (first.isascii() and first.isdigit() and len(first) <= 18):
        raise RequestError(f"expected ID.TIMESTAMP, got {str(project)[:80]!r}", field="project")
    return int(first)


def predict_request(
    tasks: object, *, label_config: str | None, project: object, context: object
) -> bytes:
    """Returns the body of POST /predict for the decoded fields that label-studio-ml hands over."""
    body = {"tasks": tasks, "label_config": label_config, "params": {"context": context}}
    return msgspec.json.encode(body | {"project": None if project is None else str(project)})


def event_request(action: str, fields: Mapping[str, object]) -> bytes:
    """Returns the body of POST /webhook for the decoded fields that label-studio-ml hands over."""
    return msgspec.json.encode({**fields, "action": action})
