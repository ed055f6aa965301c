"""Contact sheets: every group of photographs as a row of small pictures with its names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

from PIL import Image, ImageDraw, ImageFont

from backend.cli.photo_groups import Group
from calico_model.picture import read_reduced

_THUMB, _GAP, _WORDS = 160, 8, 18
_WIDTH = 1368  # eight small pictures, two groups of four
_PER_SHEET = 150  # groups; JPEG files have at most 65,535 rows
_INK, _PAPER, _FRAME = (40, 40, 40), (255, 255, 255), (170, 170, 170)


def write_sheets(
    path: Path, folder: Path, groups: Sequence[Group], tell: Callable[[int], None]
) -> tuple[Path, ...]:
    """Writes contact sheets: `sheet.jpg`, then `sheet-2.jpg` and so on for many groups.

    Args:
        path: of the first sheet; its ending says the format.
        folder: of the photographs.
        groups: in order.
        tell: called with the number of groups drawn.
    """
    written = []
    for start in range(0, len(groups), _PER_SHEET):
        number = start // _PER_SHEET + 1
        target = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        sheet = _sheet(folder, groups[start : start + _PER_SHEET], start + 1)
        sheet.save(target, quality=85)
        written.append(target)
        tell(min(start + _PER_SHEET, len(groups)))
    return tuple(written)


def _sheet(folder: Path, groups: Sequence[Group], first: int) -> Image.Image:
    """Draws groups, as many side by side as fit."""
    height = _THUMB + 2 * _WORDS + 2 * _GAP
    places: list[tuple[int, int]] = []
    x = y = used = 0
    for group in groups:
        width = len(group) * (_THUMB + _GAP) + _GAP
        if x + width > _WIDTH and x > 0:
            x, y = 0, y + height
        places.append((x, y))
        x += width
        used = max(used, x)
    sheet = Image.new("RGB", (used + _GAP, y + height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    with ThreadPoolExecutor() as pool:
        thumbs = pool.map(lambda one: _thumb(folder / one.name), [o for g in groups for o in g])
        for number, (group, (left, top)) in enumerate(zip(groups, places, strict=True), first):
            right = left + len(group) * (_THUMB + _GAP)
            draw.rectangle((left + 2, top + 2, right + 4, top + height - 4), outline=_FRAME)
            draw.text((left + _GAP, top + 4), f"group {number}", fill=_INK, font=font)
            for place, photograph in enumerate(group):
                across = left + _GAP + place * (_THUMB + _GAP)
                thumb = next(thumbs)
                offset = ((_THUMB - thumb.width) // 2, (_THUMB - thumb.height) // 2)
                sheet.paste(thumb, (across + offset[0], top + _WORDS + 2 + offset[1]))
                name = _shortened(PurePath(photograph.name).name)
                draw.text((across, top + _WORDS + _THUMB + 4), name, fill=_INK, font=font)
    return sheet


def _thumb(path: Path) -> Image.Image:
    picture = Image.fromarray(read_reduced(path.read_bytes(), _THUMB, name=path.name).pixels)
    picture.thumbnail((_THUMB, _THUMB))
    return picture


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:10]}…{name[-12:]}"
