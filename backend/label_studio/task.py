"""Label Studio's tasks -> `Task`: the image URLs and labels that a task's data holds.

The labeling config refers to the data: `$image`, `$images[0]`, `/data/$name`. As in the editor, an
attribute that is exactly one reference takes the value as it is; in any other text the references
are replaced by their values. A task without usable images (none, too many, wrong types in its data)
only carries its problem. Does not fetch anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from backend.errors import InvalidTaskError
from backend.label_schema import ImageLayout, LabelSchema, LabelValue
from backend.label_studio.label_set import read_label
from backend.label_studio.wire import MAX_VALUES, has_many_values
from backend.types import Task
from calico_model.types import MAX_GROUP_SIZE

MAX_URL_LENGTH = 8_192
MAX_DATA_URL_LENGTH = 256 * 1024 * 1024  # an image itself: the fetcher has the exact limit
MAX_TASK_LABELS = 2_000
SERIES_FIELD = "series"
"""Key of a task's data that says whether its images are an ordered series."""

_WHOLE = re.compile(r"\$([\w.-]{1,200}(?:\[[\w.\[\]{}-]{1,200})?)\Z")
_INSIDE = re.compile(r"\$([A-Za-z0-9_\[\].{}]{1,200})")
_STEP = re.compile(r"[^.\[\]]+")


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


def decode_task(
    task_id: int | None,
    project_id: int | None,
    data: msgspec.Raw,
    schema: LabelSchema,
    *,
    place: str,
) -> Task:
    """Reads one task of a request.

    Args:
        task_id: None for a task that is not stored yet.
        project_id: the project it belongs to, or None.
        data: JSON of the task's data.
        schema: the project's labeling config.
        place: how messages call the task.
    """
    return _build_task(task_id, project_id, _decode_data(data), schema, place)


class _TooLarge:
    """Stands for data with too many values, which is not decoded."""


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
    """Returns the task with its images, or with the problem of its data."""
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
        is_series=_is_series(data),
    )


def _read_urls(data: dict[str, object], schema: LabelSchema, place: str) -> list[tuple[str, str]]:
    """Returns (place in the data, URL) of each image, in image order."""
    if schema.layout is ImageLayout.IMAGE_TAGS:
        urls = [(f"{place}.{_data_key(key)}", _resolve(key, data)) for key in schema.image_fields]
        while len(urls) > 1 and urls[-1][1] == "":
            urls.pop()  # an unused image tag at the end is left blank
    else:
        key = schema.image_fields[0]
        items = _checked_list(_resolve(key, data), f"{place}.{_data_key(key)}")
        if schema.item_template is None:
            urls = _read_items(items, schema.item_key, f"{place}.{_data_key(key)}")
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
    """Returns (place, value) that the image tag of a Repeater refers to in each of its views."""
    template, flag = schema.item_template or "", schema.index_flag or ""
    urls = []
    for index in range(count):
        reference = read_reference(template.replace(flag, str(index))) or ""
        urls.append((f"{place}.{_data_key(reference)}", _resolve(reference, data)))
    return urls


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
    """Returns the labels that come with the task (`value="$parts"`).

    Each is a text, or an object with the attributes of a `<Label>`.
    """
    key = schema.name.task_field if schema.name is not None else None
    if key is None:
        return ()
    field, items = f"{place}.{key}", _resolve(key, data)
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


def _is_series(data: dict[str, object]) -> bool:
    """Whether the images are an ordered series.

    Any value but true is something else: projects have columns of this name for their own use.
    """
    value = data.get(SERIES_FIELD)
    # A table that was imported as CSV holds texts.
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _kind_of(value: object) -> str:
    """Returns the words for a JSON value of the wrong type in a message."""
    if value is None:
        return "nothing"
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")


def read_reference(text: str) -> str | None:
    """Reads the references of a tag's attribute.

    Returns:
        `path` for exactly `$path`; the text itself if references stand in it; None without any.
    """
    whole = _WHOLE.match(text)
    if whole is not None:
        return whole[1]
    return text if _INSIDE.search(text) else None


def plain_keys(texts: Iterable[str]) -> tuple[str, ...]:
    """Returns the keys of the data that attributes name as a whole ("$text"), each once."""
    keys = (text[1:] for text in texts if text.startswith("$"))
    return tuple(dict.fromkeys(key for key in keys if key.isidentifier()))


def _data_key(reference: str) -> str:
    """Returns the key of the data that a reference names, for messages."""
    inside = _INSIDE.search(reference)
    return reference if inside is None else inside[1]


def _resolve(reference: str, data: dict[str, object]) -> object:
    """Returns the value of a reference of `read_reference`; None where the data lacks it."""
    if "$" not in reference:
        value = _value_at(reference, data)
        if value is not None or "-" not in reference:
            return value
        reference = f"${reference}"  # "$name-small": names of the editor have no hyphen
    values = [_value_at(path, data) for path in _INSIDE.findall(reference)]
    if all(value == "" for value in values):
        return ""  # the image is left blank
    if not all(isinstance(value, str | int | float) for value in values):
        return None
    filled = iter(values)
    return _INSIDE.sub(lambda _: str(next(filled)), reference)


def _value_at(path: str, data: dict[str, object]) -> object:
    """Returns the value under a key, or along a path of keys and list positions."""
    if path in data:
        return data[path]
    value: object = data
    for step in _STEP.findall(path):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit():
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value
