"""What the tests read from Label Studio's editor: its own state, as its own code decoded it."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Page

STORE = "window.dataManager?.lsf?.lsf?.annotationStore?.selected"

# The editor shows what the Data Manager knows of a task, and two frames after the whole task has
# come it begins again with a new annotation: what was drawn before is lost.
_HAS_COME = f"() => {STORE} && window.dataManager.store.loadingData === false"
_THREE_FRAMES = """() => new Promise(resolve => requestAnimationFrame(
  () => requestAnimationFrame(() => requestAnimationFrame(resolve))))"""

# The first image of a region's canvas layer is its mask, decoded to the size of the picture.
ARE_DRAWN = f"""(count) => {{
  const regions = {STORE}?.regionStore?.regions;
  return regions && regions.length === count && !window.dataManager.lsf.lsf.isLoading
    && regions.every(r => r.layerRef?.find('Image')[0]?.image()?.complete);
}}"""

_MASKS = f"""() => {STORE}.regionStore.regions.map(region => {{
  const image = region.layerRef.find('Image')[0].image();
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let alpha = '';
  for (let i = 3; i < rgba.length; i += 4) alpha += String.fromCharCode(rgba[i]);
  return {{
    id: region.cleanId, width: canvas.width, height: canvas.height, alpha: btoa(alpha),
    kind: region.labels[0], image: region.object.name, colour: region.strokeColor,
  }};
}})"""


@dataclass(frozen=True)
class DrawnRegion:
    """One region as the editor shows it; alpha is (H, W) uint8 at the picture's own size.

    The colour is written as "#rrggbb".
    """

    id: str
    kind: str
    image: str
    colour: str
    alpha: NDArray[np.uint8]


def open_task(page: Page, url: str, project_id: int, task_id: int, *, regions: int) -> None:
    """Opens a task and waits until the editor has drawn all its regions."""
    page.goto(f"{url}/projects/{project_id}/data?task={task_id}")
    page.wait_for_function(_HAS_COME, timeout=180_000)
    page.evaluate(_THREE_FRAMES)
    page.wait_for_function(ARE_DRAWN, arg=regions, timeout=180_000)


def drawn_regions(page: Page) -> list[DrawnRegion]:
    """Every region of the open annotation with the mask the editor decoded."""
    return [
        DrawnRegion(
            value["id"],
            value["kind"],
            value["image"],
            value["colour"],
            np.frombuffer(base64.b64decode(value["alpha"]), np.uint8).reshape(
                value["height"], value["width"]
            ),
        )
        for value in page.evaluate(_MASKS)
    ]


def select_region(page: Page, region_id: str) -> None:
    """Clicks a region in the list beside the images."""
    index = [region.id for region in drawn_regions(page)].index(region_id)
    page.locator(".lsf-outliner-item").nth(index).click()
    page.wait_for_function(
        f"(id) => {STORE}.regionStore.regions.find(r => r.cleanId === id).inSelection",
        arg=region_id,
    )


def notes(page: Page) -> dict[str, list[str]]:
    """What stands in the text areas that are the backend's, by their names."""
    found: dict[str, list[str]] = page.evaluate(
        f"""() => Object.fromEntries(Array.from({STORE}.names.values())
          .filter(tag => tag.name.startsWith('note_') && tag.regions.length)
          .map(tag => [tag.name, tag.regions.map(region => region._value)]))"""
    )
    return found
