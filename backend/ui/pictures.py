"""What was predicted for a group beside what its annotator made of it, as one picture."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import numpy as np
from cachetools import LRUCache
from PIL import Image

from backend.errors import NotFoundError
from backend.learning.correction import Correction
from backend.learning.derivation import Derivation
from backend.rle import small_mask_of
from backend.types import GroupSource, Region
from calico_model.overlay import contact_sheet, draw_overlay
from calico_model.types import ImageGroup, PartMask, RegionKind, RgbImage

_MOST_KEPT = 64
_SIDE_PX, _ROW_PX = 320, 220
_SHOWN_PX = 640  # longest side that is drawn on: larger than it will be shown, small enough to draw
_MOST_REGIONS = 400  # in one row
_MOST_ENCODED_BYTES = 8 * 1024 * 1024  # of the masks in one row


class GroupPictures:
    """Draws corrected groups, one at a time; the last ones are remembered.

    Args:
        derivation: knows what was corrected.
        images: fetches a task's images.
    """

    def __init__(self, derivation: Derivation, images: GroupSource) -> None:
        self._derivation, self._images = derivation, images
        self._lock = threading.Lock()  # guards _kept, and lets one picture be drawn at a time
        self._kept: LRUCache[tuple[object, ...], bytes] = LRUCache(_MOST_KEPT)

    def draw(self, project_id: int, task_id: int) -> bytes:
        """Returns a PNG: predicted regions above, corrected ones below.

        Raises:
            NotFoundError: nobody corrected such a task.
            MediaError: its images cannot be fetched.
            InvalidRleError: a mask cannot be decoded.
        """
        found = self._derivation.load(project_id, task_id)
        if found is None:
            raise NotFoundError(f"project {project_id} has no corrected task {task_id}")
        key = (project_id, task_id, found.annotation_id, found.updated_at)
        with self._lock:
            picture = self._kept.get(key)
            if picture is None:
                picture = self._kept[key] = self._draw(found)
            return picture

    def _draw(self, found: Correction) -> bytes:
        group = self._images.fetch_group(found.task)
        sizes_hw = group.sizes_hw
        shown = ImageGroup(tuple(map(_small, group.images)), group.ids)
        del group  # far larger than what is drawn
        before = [one.before for one in found.outcomes if one.before is not None]
        after = [one.after for one in found.outcomes if one.after is not None]
        sheet = contact_sheet(
            [
                draw_overlay(shown, _parts(regions, sizes_hw, shown.sizes_hw), min_side=_SIDE_PX)
                for regions in (before, after)
            ],
            titles=(f"predicted by {found.version}", "corrected"),
            height=_ROW_PX,
            footer="",
        )
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, format="PNG")
        return file.getvalue()


def _small(image: RgbImage) -> RgbImage:
    """An image as it is drawn on."""
    picture = Image.fromarray(image)
    picture.thumbnail((_SHOWN_PX, _SHOWN_PX), Image.Resampling.BOX)
    return np.array(picture)


def _parts(
    regions: Sequence[Region],
    sizes_hw: Sequence[tuple[int, int]],
    shown_hw: Sequence[tuple[int, int]],
) -> list[PartMask]:
    """Regions as the overlay draws them; equal names have equal colours above and below.

    A row of very many, or very ragged, regions shows the first of them.
    """
    parts, used = [], 0
    for region in regions[:_MOST_REGIONS]:
        used += len(region.encoding)
        if used > _MOST_ENCODED_BYTES:
            break
        index = region.image_index
        if index < len(sizes_hw) and region.size_hw == sizes_hw[index]:
            mask = small_mask_of(region.runs, region.size_hw, shown_hw[index])
            kind = region.kind or RegionKind.COMMON_PART
            parts.append(PartMask(index, kind, region.label or "no name", mask))
    return parts
