"""Groups of photographs as tasks of a project: their data, where files are served, what is there.

Every task that is made here carries the content hashes of its images in its `meta`, which Label
Studio stores and does not show. So Label Studio itself is the record of what was imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec

from backend.decoding import convert
from backend.errors import LabelStudioError, SettingsError
from backend.label_schema import ImageLayout, LabelSchema
from backend.label_studio.client import JsonObject, LabelStudioClient
from backend.label_studio.connection import convert_answer
from backend.label_studio.task import SERIES_FIELD, parse_task
from calico_model.types import MAX_GROUP_SIZE

META_KEY = "calico"
_PLAIN_KEY = re.compile(r"[\w-]+")
_LIST_ITEM = re.compile(r"([\w-]+)\[(\d{1,2})\]")
_ROOT = re.compile(r'LOCAL_FILES_DOCUMENT_ROOT\s*=\s*\\?["\']?([^"\'\\]+)')
_LOCAL_FILES = "/data/local-files/?d="


@dataclass(frozen=True)
class PhotoTask:
    """A task of the project.

    Attributes:
        id: of the task.
        digests: content hashes of its images in order, () if it was not made by an import.
        paths: of its images below Label Studio's document root, "" for those elsewhere.
        annotations: number of its annotations, skipped ones included.
        predictions: number of its predictions.
    """

    id: int
    digests: tuple[str, ...]
    paths: tuple[str, ...]
    annotations: int
    predictions: int


class _Meta(msgspec.Struct):
    sha256: list[str] = []


def photo_tasks(
    client: LabelStudioClient, project_id: int, schema: LabelSchema
) -> tuple[PhotoTask, ...]:
    """Returns every task of a project with what is known of its images."""
    return tuple(
        PhotoTask(
            id=convert_answer(value.get("id"), int),
            digests=_digests_of(value.get("meta")),
            paths=tuple(map(_local_path, parse_task(value, schema).image_urls)),
            annotations=_count(value, "total_annotations", "cancelled_annotations"),
            predictions=_count(value, "total_predictions"),
        )
        for value in client.raw_tasks(project_id)
    )


def most_images(schema: LabelSchema) -> int:
    """Returns how many images a task of this config can show.

    Raises:
        SettingsError: the config reads its images in a way that an import cannot fill.
    """
    if not _can_fill(schema.image_fields) or schema.item_template is not None:
        raise SettingsError(
            "--project: expected a labeling config that shows images as $key, $key[{{idx}}] or "
            f"$key[0], $key[1], ..., got {schema.item_template or ', '.join(schema.image_fields)}"
        )
    return len(schema.slots) if schema.layout is ImageLayout.IMAGE_TAGS else MAX_GROUP_SIZE


def task_of(
    urls: Sequence[str],
    digests: Sequence[str],
    schema: LabelSchema,
    *,
    is_series: bool = False,
    text: str = "",
) -> JsonObject:
    """Returns a group as a task to import: data under the keys of the config, and its hashes.

    Args:
        urls: of the images, in order.
        digests: content hash of each.
        schema: the config.
        is_series: whether the images are an ordered series.
        text: for every text that the config shows beside the images.
    """
    data: JsonObject
    if schema.layout is ImageLayout.IMAGE_TAGS:
        blank = [""] * (len(schema.image_fields) - len(urls))
        data = _data_of(dict(zip(schema.image_fields, [*urls, *blank], strict=True)))
    elif schema.item_key is None:
        data = {schema.image_fields[0]: list(urls)}
    else:
        data = {schema.image_fields[0]: [{schema.item_key: url} for url in urls]}
    data = dict.fromkeys(schema.texts, text) | data
    if is_series:
        data[SERIES_FIELD] = True
    return {"data": data, "meta": {META_KEY: {"sha256": list(digests)}}}


def _can_fill(fields: Sequence[str]) -> bool:
    """Whether every field is a key, or an item of a list that is shown from its start on."""
    items = [match for match in map(_LIST_ITEM.fullmatch, fields) if match is not None]
    shown: dict[str, set[int]] = {}
    for item in items:
        shown.setdefault(item[1], set()).add(int(item[2]))
    keys = [field for field in fields if _PLAIN_KEY.fullmatch(field)]
    whole = all(places == set(range(len(places))) for places in shown.values())
    return whole and not shown.keys() & set(keys) and len(keys) + len(items) == len(fields)


def _data_of(urls: Mapping[str, str]) -> JsonObject:
    """Returns addresses by field as the data of a task: `images[1]` is an item of a list."""
    data: JsonObject = {}
    lists: dict[str, dict[int, str]] = {}
    for field, url in urls.items():
        item = _LIST_ITEM.fullmatch(field)
        if item is None:
            data[field] = url
        else:
            lists.setdefault(item[1], {})[int(item[2])] = url
    return data | {key: [items[n] for n in sorted(items)] for key, items in lists.items()}


def document_root(client: LabelStudioClient, project_id: int, folder: Path) -> Path | None:
    """Returns the folder below which Label Studio serves `folder` itself; None if it does not.

    Nothing is stored: Label Studio is only asked whether it would accept the folder as a storage.
    """
    # The file system's own root lies outside of every document root, and the refusal names it.
    found = _ROOT.search(_refusal(client, project_id, Path(folder.anchor)) or "")
    if found is None:
        return None
    root = Path(found[1])
    if root not in folder.parents or _refusal(client, project_id, folder) is not None:
        return None
    return root


def serve_folder(client: LabelStudioClient, project_id: int, folder: Path) -> None:
    """Lets Label Studio serve a folder to a project, unless it does already."""
    answer = client.get("/api/storages/localfiles/", params={"project": project_id})
    present = {str(one.get("path")) for one in convert_answer(answer, list[JsonObject])}
    if not any(str(path) in present for path in (folder, *folder.parents)):
        client.add_local_storage(project_id, str(folder), title=folder.name)


def served_url(client: LabelStudioClient, path: Path, root: Path) -> str:
    """Returns the address of a file below the document root."""
    return f"{_prefix(client)}{_LOCAL_FILES}{quote(path.relative_to(root).as_posix())}"


def upload(
    client: LabelStudioClient, project_id: int, files: Sequence[tuple[str, bytes]]
) -> list[str]:
    """Stores files in Label Studio.

    Args:
        client: Label Studio.
        project_id: they belong to it.
        files: name and content of each, at most 100 and 200 MB together.

    Returns:
        Their addresses, in order.
    """
    ids = client.upload(project_id, {f"file{place}": file for place, file in enumerate(files)})
    stored = client.get(f"/api/projects/{project_id}/file-uploads", params={"ids": str(list(ids))})
    name_of = {
        convert_answer(one.get("id"), int): str(one.get("file"))
        for one in convert_answer(stored, list[JsonObject])
    }
    if len(ids) != len(files) or not set(ids) <= set(name_of):
        raise LabelStudioError(f"expected {len(files)} files in Label Studio, found {len(name_of)}")
    return [f"{_prefix(client)}/data/{quote(name_of[one])}" for one in ids]


def create_annotation(client: LabelStudioClient, task_id: int, result: bytes) -> None:
    """Stores an annotation as a person would, so that the project's webhook tells of it."""
    body = {"result": msgspec.Raw(result), "was_cancelled": False}
    client.post(f"/api/tasks/{task_id}/annotations/", body)


def prediction_versions(client: LabelStudioClient, task_id: int) -> frozenset[str]:
    """Returns the model versions that have predicted a task."""
    return frozenset(str(one.get("model_version")) for one in client.raw_predictions(task_id))


def _refusal(client: LabelStudioClient, project_id: int, folder: Path) -> str | None:
    """Returns why Label Studio would not serve a folder; None if it would."""
    body = {"project": project_id, "path": str(folder), "use_blob_urls": True}
    try:
        client.post("/api/storages/localfiles/validate", body)
    except LabelStudioError as error:
        return str(error)
    return None


def _digests_of(meta: object) -> tuple[str, ...]:
    kept = meta.get(META_KEY) if isinstance(meta, Mapping) else None
    try:
        return tuple(convert(kept, _Meta).sha256)
    except msgspec.ValidationError:
        return ()


def _local_path(url: str) -> str:
    _, found, path = url.partition(_LOCAL_FILES)
    return unquote(path) if found else ""


def _count(value: JsonObject, *keys: str) -> int:
    return sum(count for key in keys if isinstance(count := value.get(key), int))


def _prefix(client: LabelStudioClient) -> str:
    """The path that Label Studio has at its host."""
    return urlsplit(client.url).path.rstrip("/")
