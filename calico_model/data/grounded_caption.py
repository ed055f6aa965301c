"""Grounded captions as JSON: text, phrases with masks, hierarchy, and a conversation.

The details follow GranD (Rasheed et al. 2024): phrases, their characters, and the ids of their
masks; the conversation is in the grammar of prompts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from calico_model.data.records import encode_mask
from calico_model.inference.caption import Caption, CaptionPhrase, Level, owners_of
from calico_model.prompts import IMAGE_TOKEN, PHRASE_END, PHRASE_START, SEG
from calico_model.types import PartMask

QUESTION = "Describe the images, with a mask for every object and part that you name."


def as_grounded(
    caption: Caption,
    parts: Sequence[PartMask],
    files: Sequence[str],
    sizes_hw: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    """Returns a caption as a JSON object.

    Args:
        caption: about `parts`.
        parts: regions of the group.
        files: name of each image.
        sizes_hw: (height, width) in pixels of each image.
    """
    owners = owners_of(parts)
    return {
        "images": [
            {"id": number, "file_name": file, "height": height, "width": width}
            for number, (file, (height, width)) in enumerate(
                zip(files, sizes_hw, strict=True), start=1
            )
        ],
        "caption": caption.text,
        "details": [
            {
                "phrase": caption.words(phrase),
                "tokens_positive": [phrase.start, phrase.end],
                "level": str(phrase.level),
                "parent": phrase.parent,
                "ids": [number + 1 for number in phrase.regions],
            }
            for phrase in caption.phrases
        ],
        "regions": [_region(number, part, owners[number]) for number, part in enumerate(parts)],
        "hierarchy": hierarchy_of(caption),
        "conversation": [
            {"from": "human", "value": "\n".join([*[IMAGE_TOKEN] * len(files), QUESTION])},
            {"from": "gpt", "value": tagged_text(caption, parts)},
        ],
    }


def hierarchy_of(caption: Caption) -> list[dict[str, Any]]:
    """Returns the objects of a caption with their parts, each with its attributes."""

    def node(number: int, phrase: CaptionPhrase) -> dict[str, Any]:
        below = [(n, p) for n, p in enumerate(caption.phrases) if p.parent == number]
        found = _named(caption, phrase) | {
            "attributes": [_named(caption, p) for _, p in below if p.level is Level.ATTRIBUTE]
        }
        if phrase.level is Level.OBJECT:
            found["parts"] = [node(n, p) for n, p in below if p.level is Level.PART]
        return found

    return [
        node(n, p) | {"level": str(p.level)}
        for n, p in enumerate(caption.phrases)
        if p.parent is None
    ]


def tagged_text(caption: Caption, parts: Sequence[PartMask]) -> str:
    """Returns the caption with its objects and parts as grounded phrases."""
    text, done = "", 0
    for phrase in caption.phrases:
        # An attribute has the masks of its thing; a phrase never begins inside another.
        if phrase.level is Level.ATTRIBUTE or phrase.start < done:
            continue
        segments = " ".join(f"{SEG} (IMAGE{parts[n].image_index + 1})" for n in phrase.regions)
        words = f"{PHRASE_START} {caption.words(phrase)} {PHRASE_END} {segments}"
        text += caption.text[done : phrase.start] + words
        done = phrase.end
    return text + caption.text[done:]


def _named(caption: Caption, phrase: CaptionPhrase) -> dict[str, Any]:
    return {"phrase": caption.words(phrase), "ids": [number + 1 for number in phrase.regions]}


def _region(number: int, part: PartMask, owner: int | None) -> dict[str, Any]:
    encoded = encode_mask(part.mask)
    run_lengths = {"size": list(encoded.size), "counts": str(encoded.counts)}
    box = coco_mask.toBbox(run_lengths)
    return {
        "id": number + 1,
        "image_id": part.image_index + 1,
        "kind": str(part.kind),
        "label": part.label,
        "object_id": None if owner is None else owner + 1,
        "score": round(float(part.score), 4),
        "bbox": [float(side) for side in box],
        "area": int(np.count_nonzero(part.mask)),
        "segmentation": run_lengths,
    }
