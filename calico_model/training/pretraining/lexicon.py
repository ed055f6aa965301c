"""The vocabulary of calico-tiny."""

from __future__ import annotations

from calico_model import prompts
from calico_model.data.catalogue import HELD_OUT_PARTS, PART_NAMES, TRAINED_CATEGORIES
from calico_model.tokenizer import Tokenizer, build_small_tokenizer


def small_tokenizer() -> Tokenizer:
    """Builds calico-tiny's tokenizer: wordings and trained names are whole words.

    Held-out names are spelled, like any name of a project that training never met.
    """
    parts = [name for name in PART_NAMES if name not in HELD_OUT_PARTS]
    names = {word for name in (*TRAINED_CATEGORIES, *parts) for word in name.split()}
    return build_small_tokenizer([*prompts.known_words(), *sorted(names)])
