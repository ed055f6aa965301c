"""What a tag's attribute refers to in a task's data: `$image`, `$images[0]`, `/data/$name`.

Follows the editor: an attribute that is one reference takes the value as it is, any other text has
its references filled in. Does not know tags or images.
"""

from __future__ import annotations

import re

_WHOLE = re.compile(r"\$([\w.-]{1,200}(?:\[[\w.\[\]{}-]{1,200})?)\Z")
_INSIDE = re.compile(r"\$([A-Za-z0-9_\[\].{}]{1,200})")
_STEP = re.compile(r"[^.\[\]]+")


def read_reference(text: str) -> str | None:
    """Returns the path of `$path`, a text with references in it as it is, None without any."""
    whole = _WHOLE.match(text)
    if whole is not None:
        return whole[1]
    return text if _INSIDE.search(text) else None


def place_of(reference: str) -> str:
    """How messages call the place in the data that a reference is about."""
    inside = _INSIDE.search(reference)
    return reference if inside is None else inside[1]


def resolve(reference: str, data: dict[str, object]) -> object:
    """Returns what a reference of `read_reference` stands for, None where the data lacks it."""
    if "$" not in reference:
        value = _value_at(reference, data)
        if value is not None or "-" not in reference:
            return value
        reference = f"${reference}"  # "$name-small": the editor's names have no hyphen
    values = [_value_at(path, data) for path in _INSIDE.findall(reference)]
    if all(value == "" for value in values):
        return ""  # the image is left blank
    if not all(isinstance(value, str | int | float) for value in values):
        return None
    filled = iter(values)
    return _INSIDE.sub(lambda _: str(next(filled)), reference)


def _value_at(path: str, data: dict[str, object]) -> object:
    """The value under a key, or along a path of keys and positions."""
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
