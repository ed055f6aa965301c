"""`calico bench import`: how fast photographs become groups, and whether groups show one thing.

Without sets it draws photographs, some of them twice, and imports them two times: once as new ones,
and once with everything known from the first time. With sets of labeled photographs, it mixes them
and counts how often the photographs of a group show one class of object.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from backend.cli.import_plan import Plan, Way
from backend.cli.labeled_data import read_group_size
from backend.cli.photo_cache import PhotoCache
from backend.cli.photo_folder import Listing, list_photographs
from backend.cli.photo_groups import Group, arrange, set_duplicates_aside
from backend.cli.photo_survey import survey
from backend.cli.progress import peak_rss_mib, progress_bar
from calico_model.data.coco_parts import ANNOTATIONS_FILE, IMAGES_FOLDER
from calico_model.data.mixedparts.coco import CocoFile
from calico_model.errors import InvalidConfigError

_KINDS = 200  # scenes of which photographs are drawn
_SIZE = (200, 150)
_COPY, _AGAIN = 100, 50  # every so many is copied, and is saved again smaller


def bench_import(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for what is drawn and known.", metavar="DIR")
    ],
    photographs: Annotated[int, typer.Option(min=10, help="How many are drawn.")] = 10_000,
    sets: Annotated[
        Path | None,
        typer.Option(
            help="Instead: folder of sets, each with annotations.json (COCO) and images.",
            metavar="DIR",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    group_size: Annotated[str, typer.Option(metavar="N-M", help="Per group.")] = "2-4",
) -> None:
    """Measure the import of photographs.

    Examples:
    calico bench import --out bench
    calico bench import --out bench --sets photographs

    The last line of the output is JSON. Drawn photographs: per second as new ones and when known,
    peak memory, repetitions found of those made, groups. Sets: purity, the share of photographs
    that show the class of most in their group, and pairs, the share of pairs within a group that
    show one class; of each set, and of all sets mixed.
    """
    plan = Plan(Way.SIMILARITY, read_group_size(group_size))
    figures: Mapping[str, object]
    if sets is not None:
        figures = _measure_sets(sets, plan, folder)
    else:
        figures = _measure_drawn(folder / "photographs", photographs, plan, folder)
    typer.echo(json.dumps(figures))


def _measure_drawn(
    photos: Path, count: int, plan: Plan, data: Path
) -> dict[str, float | int | bool]:
    made = draw_photographs(photos, count)
    listing = list_photographs(photos)
    figures: dict[str, float | int | bool] = {"photographs": len(listing.names)}
    for name in ("new", "known"):
        began = time.monotonic()
        groups, repeated, fresh = _import(listing, plan, data)
        seconds = time.monotonic() - began
        figures[f"{name}_read"] = fresh
        figures[f"{name}_seconds"] = round(seconds, 1)
        figures[f"{name}_per_second"] = round(len(listing.names) / seconds, 1)
    members = [one.name for group in groups for one in group]
    return figures | {
        "peak_rss_mib": round(peak_rss_mib()),
        "repetitions_made": made,
        "repetitions_found": repeated,
        "groups": len(groups),
        "grouped_photographs": len(members),
        "is_any_twice": len(set(members)) < len(members),
    }


def _import(listing: Listing, plan: Plan, data: Path) -> tuple[list[Group], int, int]:
    """Returns groups, how many photographs repeat others, and how many had to be read."""
    with (
        PhotoCache(data) as cache,
        progress_bar("reading photographs", len(listing.names), unit="photographs") as tell,
    ):
        seen = survey(listing, cache, with_vectors=True, tell=tell)
    distinct, repeated = set_duplicates_aside(seen.photographs)
    return arrange(distinct, plan), len(repeated), seen.fresh


def draw_photographs(folder: Path, count: int) -> int:
    """Draws photographs of as many scenes as a large import has, each from its own place.

    Args:
        folder: of the files; those that are there are kept.
        count: of different photographs.

    Returns:
        How many more were written that repeat one: copied, or saved again smaller.
    """
    folder.mkdir(parents=True, exist_ok=True)
    repetitions = 0
    with progress_bar("drawing photographs", count, unit="photographs") as tell:
        for number in range(count):
            path = folder / f"kind{number % _KINDS:03}_{number:05}.jpg"
            if not path.exists():
                _draw(number).save(path, quality=85)
            if number % _COPY == 1:
                repetitions += 1
                (folder / f"copy_{number:05}.JPG").write_bytes(path.read_bytes())
            if number % _AGAIN == 2:
                repetitions += 1
                with Image.open(path) as image:
                    small = image.resize((_SIZE[0] * 3 // 4, _SIZE[1] * 3 // 4))
                small.save(folder / f"again_{number:05}.webp", quality=70)
            tell(number + 1)
    return repetitions


def _draw(number: int) -> Image.Image:
    """A scene of soft shapes in the colours of its kind, and things of its own before it."""
    kind, own = np.random.default_rng(number % _KINDS), np.random.default_rng(10_000 + number)
    cells = kind.integers(0, 255, (4, 5, 3)) + own.normal(0, 30, (4, 5, 3))
    image = Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8))
    image = image.resize(_SIZE, Image.Resampling.BICUBIC)
    pixels = np.asarray(image).copy()
    for _ in range(4):
        y, x = int(own.integers(0, _SIZE[1] - 40)), int(own.integers(0, _SIZE[0] - 40))
        height, width = (int(side) for side in own.integers(12, 40, 2))
        pixels[y : y + height, x : x + width] = own.integers(0, 255, 3)
    grain = own.normal(0, 6, pixels.shape)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def _measure_sets(sets: Path, plan: Plan, data: Path) -> dict[str, object]:
    """Groups the photographs of every set, and of all of them mixed."""
    class_of: dict[str, str] = {}
    for folder in sorted(path for path in sets.iterdir() if (path / ANNOTATIONS_FILE).is_file()):
        class_of |= _classes(folder, sets)
    if not class_of:
        raise InvalidConfigError(f"--sets: expected folders with {ANNOTATIONS_FILE} in {sets}")
    figures: dict[str, object] = {}
    names = tuple(sorted(class_of))
    by_set = Counter(name.partition("/")[0] for name in names)
    for title in ("mixed", *by_set):
        chosen = tuple(one for one in names if title in ("mixed", one.partition("/")[0]))
        groups, repeated, _ = _import(Listing(sets, chosen, ()), plan, data)
        classes = len({class_of[name] for name in chosen})
        counts = {"photographs": len(chosen), "classes": classes, "repeated": repeated}
        if classes > 1:
            figures[title] = counts | {"groups": len(groups)} | _purity(groups, class_of)
    return figures


def _classes(folder: Path, sets: Path) -> dict[str, str]:
    """The class of object with most parts in each photograph of a set, by its name below `sets`."""
    file = CocoFile(folder / ANNOTATIONS_FILE)
    counts: dict[int, Counter[str]] = {}
    for annotation in file.annotations.values():
        category = file.categories[annotation.category_id]
        kind = category.supercategory or category.name
        counts.setdefault(annotation.image_id, Counter())[kind] += 1
    found = {}
    for image_id, classes in counts.items():
        path = folder / IMAGES_FOLDER / file.images[image_id].file_name
        if path.is_file():
            found[path.relative_to(sets).as_posix()] = classes.most_common(1)[0][0]
    return found


def _purity(groups: Sequence[Group], class_of: Mapping[str, str]) -> dict[str, float]:
    shown = [[class_of[one.name] for one in group] for group in groups]
    most = sum(Counter(group).most_common(1)[0][1] for group in shown)
    pairs = [one == other for group in shown for one, other in combinations(group, 2)]
    return {
        "purity": round(most / max(1, sum(map(len, shown))), 3),
        "pairs": round(sum(pairs) / max(1, len(pairs)), 3),
    }
