"""Request bodies of /predict and /setup, and tasks of the API -> typed requests and tasks.

A request that cannot be understood is refused as a whole; a task that cannot be looked at (no
images, too many, wrong types in its data) only carries its problem. Does not fetch anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from backend.errors import InvalidLabelConfigError, InvalidTaskError, RequestError
from backend.label_schema import ImageLayout, LabelSchema, LabelValue
from backend.label_studio.annotation import read_prompts
from backend.label_studio.canvas import Drawings, KnownDrawing, read_canvas
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import read_label
from backend.label_studio.question import read_question
from backend.label_studio.reference import place_of, read_reference, resolve
from backend.label_studio.wire import (
    MAX_VALUES,
    Id,
    check_body,
    decode,
    decode_body,
    decode_results,
    has_many_values,
)
from backend.types import PredictRequest, Prompt, SetupRequest, Task
from calico_model.types import MAX_GROUP_SIZE

MAX_TASKS = 50_000
MAX_URL_LENGTH = 8_192
MAX_DATA_URL_LENGTH = 256 * 1024 * 1024  # an image itself: the fetcher has the exact limit
MAX_TASK_LABELS = 2_000
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
        """Lists of drawings, what counts most first."""
        raise NotImplementedError


class _KnownTask(_WireTask):
    """All of whose drawings have a form we know."""

    drafts: list[KnownDrawing] = []
    annotations: list[KnownDrawing] = []
    predictions: list[KnownDrawing] = []

    @property
    def drawings(self) -> tuple[Drawings, ...]:
        return self.drafts, self.annotations, self.predictions


class _OtherTask(_WireTask):
    """Whose drawings are to be read one by one."""

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
        # Each refused task costs a kilobyte of words: three bytes of "{}," must not.
        raise RequestError(
            f"expected at most {MAX_TASKS} tasks, got {len(wire.tasks)}", field="tasks"
        )
    if wire.label_config is None:
        raise InvalidLabelConfigError("expected the labeling config", field="label_config")
    schema = parse_label_config(wire.label_config)
    project_id = read_project_id(wire.project)
    context = wire.params.context if wire.params is not None else None
    raw, place = (context or _WireContext()).result, "params.context.result"
    asked = decode_results(raw, place=place, most=MAX_CONTEXT_RESULTS)
    prompts = read_prompts(asked, schema)
    _check_prompts(prompts, place)
    drawn = wire.tasks[0].drawings if wire.tasks and prompts else ()
    return PredictRequest(
        tasks=tuple(
            _build_task(task.id, project_id, _decode_data(task.data), schema, f"tasks[{index}]")
            for index, task in enumerate(wire.tasks)
        ),
        schema=schema,
        project_id=project_id,
        prompts=prompts,
        is_interactive=context is not None,
        question=read_question(asked, schema, prompts),
        canvas=read_canvas(drawn, schema)[:MAX_CANVAS],
    )


def _read_predict(body: bytes) -> _WirePredict[_KnownTask] | _WirePredict[_OtherTask]:
    # In one go where that is possible: the body of a click repeats every mask of its task. Of other
    # requests nobody reads the masks.
    check_body(body, RequestError)
    if _has_context(body):
        with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return msgspec.json.decode(body, type=_WirePredict[_KnownTask])
    return decode(body, _WirePredict[_OtherTask], RequestError)


def _check_prompts(prompts: Sequence[Prompt], place: str) -> None:
    """Refuses more than one annotator's clicks on one region could be."""
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
    # Label Studio writes it last, behind a megabyte of masks.
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


def parse_task(value: Mapping[str, object], schema: LabelSchema, *, place: str = "task") -> Task:
    """Reads one task of Label Studio's API.

    Args:
        value: the task object.
        schema: the project's labeling config.
        place: how messages call the task.

    Raises:
        InvalidTaskError: no usable id.
    """
    task_id, project_id = value.get("id"), value.get("project")
    if not isinstance(task_id, int) or isinstance(task_id, bool):
        raise InvalidTaskError(f"expected an integer, got {task_id!r}", field=f"{place}.id")
    project = project_id if isinstance(project_id, int) else None
    return _build_task(task_id, project, value.get("data"), schema, place)


def read_project_id(project: str | int | None) -> int | None:
    """Id from Label Studio's "14.1795191017" (id and creation time), or None when absent.

    Raises:
        RequestError: another text.
    """
    if project is None or project == "":
        return None
    first = str(project).split(".")[0]
    if not (first.isascii() and first.isdigit() and len(first) <= 18):
        raise RequestError(f"expected ID.TIMESTAMP, got {str(project)[:80]!r}", field="project")
    return int(first)


class _TooLarge:
    """Stands for the data of a task that is not decoded."""


def _decode_data(raw: msgspec.Raw) -> object:
    if has_many_values(raw):
        return _TooLarge()
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _build_task(
    task_id: int | None, project_id: int | None, data: object, schema: LabelSchema, place: str
) -> Task:
    """A task with its images, or with the problem that prevents it."""
    try:
        if isinstance(data, _TooLarge):
            raise InvalidTaskError(f"expected at most {MAX_VALUES} values", field=f"{place}.data")
        if not isinstance(data, dict):
            raise InvalidTaskError("expected an object with the images", field=f"{place}.data")
        urls = _read_urls(data, schema, f"{place}.data")
        labels = _read_labels(data, schema, f"{place}.data")
    except InvalidTaskError as error:
        return Task(id=task_id, project_id=project_id, image_urls=(), problem=str(error))
    return Task(
        id=task_id,
        project_id=project_id,
        image_urls=tuple(url for _, url in urls),
        image_fields=tuple(field for field, _ in urls),
        labels=labels,
    )


def _read_urls(data: dict[str, object], schema: LabelSchema, place: str) -> list[tuple[str, str]]:
    """Where each URL stood and the URL, in image order."""
    if schema.layout is ImageLayout.IMAGE_TAGS:
        urls = [(f"{place}.{place_of(key)}", resolve(key, data)) for key in schema.image_fields]
        while len(urls) > 1 and urls[-1][1] == "":
            urls.pop()  # an unused image tag at the end is left blank
    else:
        key = schema.image_fields[0]
        items = _checked_list(resolve(key, data), f"{place}.{place_of(key)}")
        if schema.item_template is None:
            urls = _read_items(items, schema.item_key, f"{place}.{place_of(key)}")
        else:
            urls = _read_repeated(len(items), data, schema, place)
    return [(field, _read_url(url, field)) for field, url in urls]


def _checked_list(items: object, field: str) -> list[object]:
    expected = f"expected a list of 1 to {MAX_GROUP_SIZE} image URLs"
    if not isinstance(items, list):
        raise InvalidTaskError(f"{expected}, got {_kind_of(items)}", field=field)
    if not 1 <= len(items) <= MAX_GROUP_SIZE:
        raise InvalidTaskError(f"{expected}, got {len(items)}", field=field)
    return items


def _read_items(items: list[object], item_key: str | None, field: str) -> list[tuple[str, object]]:
    if item_key is None:
        return [(f"{field}[{index}]", item) for index, item in enumerate(items)]
    return [
        (f"{field}[{index}].{item_key}", item.get(item_key) if isinstance(item, dict) else None)
        for index, item in enumerate(items)
    ]


def _read_repeated(
    count: int, data: dict[str, object], schema: LabelSchema, place: str
) -> list[tuple[str, object]]:
    """What a Repeater's image tag refers to, filled in for each of its views."""
    template, flag = schema.item_template or "", schema.index_flag or ""
    found = []
    for index in range(count):
        reference = read_reference(template.replace(flag, str(index))) or ""
        found.append((f"{place}.{place_of(reference)}", resolve(reference, data)))
    return found


def _read_url(url: object, field: str) -> str:
    if not isinstance(url, str) or not url.strip():
        got = "an empty text" if isinstance(url, str) else _kind_of(url)
        raise InvalidTaskError(f"expected an image URL, got {got}", field=field)
    url = url.strip()
    most = MAX_DATA_URL_LENGTH if url[:5].lower() == "data:" else MAX_URL_LENGTH
    if len(url) > most:
        raise InvalidTaskError(
            f"expected a URL of at most {most} characters, got {len(url)}", field=field
        )
    return url


def _read_labels(
    data: dict[str, object], schema: LabelSchema, place: str
) -> tuple[LabelValue, ...]:
    """Labels that come with the task (`value="$parts"`): texts, or objects like the tags."""
    key = schema.name.task_field if schema.name is not None else None
    if key is None:
        return ()
    field, items = f"{place}.{key}", resolve(key, data)
    if items is None:
        return ()
    if not isinstance(items, list) or len(items) > MAX_TASK_LABELS:
        raise InvalidTaskError(f"expected a list of at most {MAX_TASK_LABELS} labels", field=field)
    labels = []
    for index, item in enumerate(items):
        parts = item if isinstance(item, dict) else {"value": item}
        texts = [parts.get(name) for name in ("value", "alias", "predicted_values")]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise InvalidTaskError("expected a label", field=f"{field}[{index}]")
        label = read_label(*texts)
        if label is not None:
            labels.append(label)
    return tuple(labels)


def _kind_of(value: object) -> str:
    """How a message calls a JSON value of the wrong type."""
    if value is None:
        return "nothing"
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")
