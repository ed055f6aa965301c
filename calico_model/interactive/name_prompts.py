"""Parts called by name: the [SEG] prompts the language model makes of given words (forced answers).

Legend: n images, P names, C prompt width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from calico_model import prompts
from calico_model.inference.teacher_forcing import read_answers
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind

UNKNOWN_OBJECT = "object"
"""What an object is called whose name nobody said."""


class CalledParts:
    """Prompts of names called lately, so that a second click needs no language model.

    Not safe for threads: whoever holds the model holds this, too.
    """

    def __init__(self, most: int = 256) -> None:
        """Keeps the last `most` names; each takes a few kilobytes."""
        self._most = most
        self._prompts: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable) -> Tensor | None:
        """Returns what was kept under a key, or None."""
        found = self._prompts.get(key)
        if found is not None:
            self._prompts.move_to_end(key)
        return found

    def put(self, key: Hashable, prompts: Tensor) -> Tensor:
        """Keeps (n, C) prompts and returns them."""
        self._prompts[key] = prompts
        while len(self._prompts) > self._most:
            self._prompts.popitem(last=False)
        return prompts


@torch.inference_mode()
def call_parts(
    model: Calico,
    tokenizer: Tokenizer,
    features: ImageFeatures,
    labels: Sequence[str],
    objects: Sequence[str | None] = (),
) -> Tensor:
    """Reads the answer that all images share these parts, and takes its prompts.

    Args:
        model: on the device of the features.
        tokenizer: of the model and the adapter it wears.
        features: of a group's images.
        labels: names of parts, at least one.
        objects: name of the compared object of each image, None where unknown; () for all unknown.

    Returns:
        (P, n, C) sparse prompts, one per name and image.
    """
    every = tuple(range(len(features)))
    mains = [name or UNKNOWN_OBJECT for name in objects] or [UNKNOWN_OBJECT] * len(features)
    shown = [
        Phrase(name, tuple(k for k in every if mains[k] == name), is_object=True)
        for name in dict.fromkeys(mains)
    ]
    kind = RegionKind.COMMON_PART
    answer = prompts.write_answer(kind, shown, [Phrase(n, every, is_object=False) for n in labels])
    question = prompts.QUESTIONS[kind][0]
    (states,) = read_answers(model, tokenizer, features, [question], [answer]).seg_states
    called: Tensor = model.segmentation_projection(states[len(mains) :]).float()  # (P n, C)
    return called.reshape(len(labels), len(every), -1)
