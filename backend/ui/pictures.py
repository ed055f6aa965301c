"""Pictures of corrected groups: the predicted regions above the corrected ones."""

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
_SHOWN_PX = 640  # longest side of the drawn image: larger than it is shown, quick to draw
_MOST_REGIONS = 400  # in one row
_MOST_ENCODED_BYTES = 8 * 1024 * 1024  # of the masks in one row


class GroupPictures:
    """Draws corrected groups, one at a time, and caches the last ones.

    Args:
        derivation: loads corrections.
        images: fetches the images of a task.
    """

    def __init__(self, derivation: Derivation, images: GroupSource) -> None:
        self._derivation, self._images = derivation, images
        self._lock = threading.Lock()  # guards _kept, and lets one picture be drawn at a time
        self._kept: LRUCache[tuple[object, ...], bytes] = LRUCache(_MOST_KEPT)

    def draw(self, project_id: int, task_id: int) -> bytes:
        """Returns a PNG: predicted regions above, corrected ones below.

        Raises:
            NotFoundError: the project has no such corrected task.
            MediaError: its images cannot be fetched.
            InvalidRleError: a mask cannot be decoded.
        """
        correction = self._derivation.load(project_id, task_id)
        if correction is None:
            raise NotFoundError(f"project {project_id} has no corrected task {task_id}")
        key = (project_id, task_id, correction.annotation_id, correction.updated_at)
        with self._lock:
            picture = self._kept.get(key)
            if picture is None:
                picture = self._kept[key] = self._draw(correction)
            return picture

    def _draw(self, correction: Correction) -> bytes:
        group = self._images.fetch_group(correction.task)
        sizes_hw = group.sizes_hw
        shown = ImageGroup(tuple(map(_small, group.images)), group.ids)
        del group  # far larger than the drawn images
        before = [o.before for o in correction.outcomes if o.before is not None]
        after = [o.after for o in correction.outcomes if o.after is not None]
        sheet = contact_sheet(
            [
                draw_overlay(shown, _parts(regions, sizes_hw, shown.sizes_hw), min_side=_SIDE_PX)
                for regions in (before, after)
            ],
            titles=(f"predicted by {correction.version}", "corrected"),
            height=_ROW_PX,
            footer="",
        )
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, format="PNG")
        return file.getvalue()


def _small(image: RgbImage) -> RgbImage:
    """The image in the size that is drawn."""
    picture = Image.fromarray(image)
    picture.thumbnail((_SHOWN_PX, _SHOWN_PX), Image.Resampling.BOX)
    return np.array(picture)


def _parts(
    regions: Sequence[Region],
    sizes_hw: Sequence[tuple[int, int]],
    shown_hw: Sequence[tuple[int, int]],
) -> list[PartMask]:
    """Returns regions as the overlay draws them; equal names have equal colours in both rows.

    Of very many regions, or masks with very many runs, only the first are shown.
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
