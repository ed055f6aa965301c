"""Free text of the model <-> the label set of a project.

Owns the one normal form of a label, how alike two labels are, and which label of a closed set a
text means. Knows strings only; not masks, images or labeling configurations.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType

from calico_model.errors import InvalidConfigError

CLOSE_ENOUGH = 0.75
"""Smallest closeness at which a misspelt word still counts as the word."""

SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)
"""Of a name that means another thing in the mirror."""

_ARTICLES = frozenset({"a", "an", "the"})
_POSSESSIVE = re.compile(r"['\u2019]s?\b")
_NOT_WORD = re.compile(r"[\W_]+")
_SHORTEST_TYPO = 4  # shorter words differ by one letter too often: leg / peg / log

_IRREGULAR = {
    "calves": "calf",
    "children": "child",
    "elves": "elf",
    "feet": "foot",
    "geese": "goose",
    "halves": "half",
    "hooves": "hoof",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "men": "man",
    "mice": "mouse",
    "people": "person",
    "scarves": "scarf",
    "shelves": "shelf",
    "teeth": "tooth",
    "thieves": "thief",
    "wives": "wife",
    "wolves": "wolf",
    "women": "woman",
    "buses": "bus",
    "gases": "gas",
    "lenses": "lens",
    "canvases": "canvas",
    "irises": "iris",
    "cookies": "cookie",
    "movies": "movie",
    "axes": "axe",
    "aches": "ache",
}
_SINGULAR_IN_S = frozenset(
    ("always", "atlas", "binoculars", "bus", "canvas", "clothes", "gas", "goggles", "jeans", "lens")
    + ("news", "pajamas", "pants", "pliers", "scissors", "series", "shorts", "species", "sports")
    + ("tongs", "trousers", "tweezers")
)
_ES_AFTER_O = frozenset(
    ("cargoes", "echoes", "heroes", "mangoes", "mosquitoes", "potatoes", "tomatoes", "volcanoes")
)


def normalise(label: str) -> str:
    """Returns the form in which labels are compared: "The_Front Wheels" -> "front wheel".

    Lower case, no articles, punctuation and possessives, "_", ":" and "-" as spaces, single spaces,
    English plurals as singulars. A label that holds nothing else keeps its article. Applying it
    twice changes nothing.
    """
    text = unicodedata.normalize("NFKC", label).lower()
    words = _NOT_WORD.sub(" ", _POSSESSIVE.sub("", text)).split()
    kept = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_singular(word) for word in kept)


def _singular(word: str) -> str:
    """Turns a simple English plural into its singular; other words come back unchanged."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word in _SINGULAR_IN_S:
        return word
    if word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    if word.endswith(("ches", "shes", "sses", "xes", "zzes")) or word in _ES_AFTER_O:
        return word[:-2]
    if word.endswith(("tuses", "puses", "ruses", "nuses")):
        return word[:-2]
    return _IRREGULAR.get(word[:-1], word[:-1])


def similarity(left: str, right: str) -> float:
    """Cosine in [0, 1] of two labels' hashed character 3- to 5-gram counts, after `normalise`.

    The offline stand-in for a sentence encoder (`ss_backend=ngram`): it sees spelling, not meaning,
    needs no weights and gives the same number on every machine.
    """
    first, second = normalise(left), normalise(right)
    if first == second:
        return 1.0
    a, b = _ngrams(first), _ngrams(second)
    shared = sum(count * b[gram] for gram, count in a.items() if gram in b)
    return shared / (_norm(a) * _norm(b)) if shared else 0.0


@lru_cache(maxsize=4096)
def _ngrams(text: str) -> Counter[int]:
    padded = f" {text} "
    grams = (padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1))
    return Counter(zlib.crc32(gram.encode()) % (1 << 16) for gram in grams)


def _norm(counts: Counter[int]) -> float:
    return math.sqrt(sum(count * count for count in counts.values()))


@dataclass(frozen=True)
class Vocabulary:
    """The closed label set of a project.

    Attributes:
        labels: canonical labels, as the project writes them, all different after `normalise`.
        aliases: other names -> the label of `labels` they stand for.

    Raises:
        InvalidConfigError: empty or repeated labels, or an alias of a label that is not there.
    """

    labels: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for label in self.labels:
            key = normalise(label)
            if not key:
                raise InvalidConfigError(f"labels: expected a name with letters, got {label!r}")
            if key in seen:
                raise InvalidConfigError(f"labels: {label!r} and {seen[key]!r} mean the same")
            seen[key] = label
        for alias, label in self.aliases.items():
            if label not in self.labels:
                raise InvalidConfigError(f"aliases: {alias!r} stands for unknown label {label!r}")
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))

    @cached_property
    def _canonical(self) -> dict[str, str]:
        """Normal form of every label and alias -> label; a label wins over an alias."""
        named = {normalise(alias): label for alias, label in self.aliases.items()}
        return named | {normalise(label): label for label in self.labels}

    def spellings(self, label: str) -> tuple[str, ...]:
        """Returns every name of a label in normal form, its own first; no name is of two labels."""
        names = [name for name, owner in self._canonical.items() if owner == label]
        return tuple(sorted(names, key=lambda name: name != normalise(label)))


def match(label: str, vocabulary: Vocabulary, *, threshold: float = CLOSE_ENOUGH) -> str | None:
    """Returns the label of the vocabulary that a text means, or None if it is out of vocabulary.

    Tried in this order: the exact text, its normal form, an alias, then the closest spelling. Two
    labels equally close give None: a wrong name costs an annotator more than a missing one.
    """
    if label in vocabulary.labels:
        return label
    wanted = normalise(label)
    if wanted in vocabulary._canonical:
        return vocabulary._canonical[wanted]
    best: dict[str, float] = {}
    for known, name in vocabulary._canonical.items():
        score = closeness(wanted, known)
        if score >= threshold:
            best[name] = max(score, best.get(name, 0.0))
    ranked = sorted(best.items(), key=lambda item: -item[1])
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def closeness(left: str, right: str) -> float:
    """How likely two normalised labels are one label misspelt, in [0, 1].

    1 if they differ by spaces only ("seatback"). Otherwise word by word, the worst word decides, so
    "left leg" is never "right leg", however many letters they share.
    """
    if left.replace(" ", "") == right.replace(" ", ""):
        return 1.0
    ours, theirs = left.split(), right.split()
    if len(ours) != len(theirs) or not ours:
        return 0.0
    return min(_word_closeness(a, b) for a, b in zip(ours, theirs, strict=True))


def _word_closeness(left: str, right: str) -> float:
    if left == right:
        return 1.0
    long_enough = min(len(left), len(right)) >= _SHORTEST_TYPO
    # A typo seldom hits the first letter; wing / ring and handle / candle are different things.
    if not long_enough or left[0] != right[0] or not (left.isalpha() and right.isalpha()):
        return 0.0
    return 1.0 - _edits(left, right) / max(len(left), len(right))


def _edits(left: str, right: str) -> int:
    """Fewest insertions, deletions, replacements and swaps of neighbours between two words."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        above, row = row, [i]
        for j, b in enumerate(right, start=1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = above
    return row[-1]
