"""Free text of the model <-> the label set of a project.

A label of a closed set is its exact text (`identity`); nothing may take two of them for one. Its
normal form is a key to find it by, where that is the key of one label alone. Where any text may be
written, texts with one normal form are one name. Knows strings only; not masks, images or labeling
configurations.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
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
_IN_WORDS = frozenset("#%\u200c\u200d")  # beside letters, marks, numbers and symbols
_ANGLE = re.compile(r"([<>])")
_MOST_PASSES = 4
_DIGEST = 8  # hexadecimal digits
_OTHER = "0000"  # after the key of a label, for a text that is none of the labels with that key
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


def identity(label: str) -> str:
    """Returns the form in which labels of a closed set are compared: their text.

    Unicode NFC, trimmed, single spaces.
    """
    return " ".join(unicodedata.normalize("NFC", label).split())


@lru_cache(maxsize=1 << 14)
def normalise(label: str) -> str:
    """Returns the key that a label is found by in free text: "The_Front Wheels" -> "front wheel".

    Lower case, no articles, punctuation and possessives, "_", ":" and "-" as spaces, single spaces,
    English plurals as singulars. Marks and symbols stay: they are parts of words in many scripts,
    and "C++" is not "C". A last word is no article ("Class A"), and a label that holds nothing but
    punctuation keeps it. Applying it twice changes nothing.
    """
    text = _normal(label)
    for _ in range(_MOST_PASSES):
        again = _normal(text)
        if again == text:
            break
        text = again
    return text


def _normal(label: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).lower())
    bare = _POSSESSIVE.sub("", text)
    # Angle brackets stand alone, so that no label is a tag of the answer grammar.
    words = _ANGLE.sub(r" \1 ", "".join(c if _is_in_word(c) else " " for c in bare)).split()
    if not words:
        return " ".join(text.split())
    kept = [word for word in words[:-1] if word not in _ARTICLES] + words[-1:]
    return " ".join(_singular(word) for word in kept)


def _is_in_word(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "LMNS" or sign in _IN_WORDS


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
    if not first or not second:
        return 0.0
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
        labels: canonical labels, as the project writes them, all of another `identity`.
        aliases: other names -> the label of `labels` they stand for.

    Raises:
        InvalidConfigError: empty or repeated labels, or an alias of a label that is not there.
    """

    labels: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for label in self.labels:
            text = identity(label)
            if not text:
                raise InvalidConfigError(f"labels: expected a name, got {label!r}")
            if text in seen:
                raise InvalidConfigError(f"labels: {label!r} and {seen[text]!r} are the same")
            seen[text] = label
        for alias, label in self.aliases.items():
            if label not in self.labels:
                raise InvalidConfigError(f"aliases: {alias!r} stands for unknown label {label!r}")
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Label -> the name it is learned and said by: its key, made unique where others have it.

        A name is its own normal form and depends on no order, so that a label keeps it for as long
        as no other label with its key comes or goes.
        """
        shared = Counter(map(normalise, self.labels))
        found = {label: normalise(label) for label in self.labels}
        for label, key in found.items():
            if shared[key] > 1:
                digest = hashlib.sha256(identity(label).encode()).hexdigest()[:_DIGEST]
                found[label] = normalise(f"{key} {digest}")
        return found

    @cached_property
    def _exact(self) -> dict[str, str]:
        """Text of every label, name and alias -> label; a label wins over a name over an alias."""
        told = _unambiguous((identity(alias), label) for alias, label in self.aliases.items())
        said = {name: label for label, name in self.names.items()}
        return told | said | {identity(label): label for label in self.labels}

    @cached_property
    def _folded(self) -> dict[str, str]:
        """Text of every label in any case -> label, where it is that of one alone."""
        return _unambiguous((identity(label).casefold(), label) for label in self.labels)

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Normal form of every label and alias -> label, where it is that of one alone."""
        labels = [(normalise(label), label) for label in self.labels]
        taken = {key for key, _ in labels}
        aliases = [(normalise(alias), label) for alias, label in self.aliases.items()]
        told = _unambiguous((key, label) for key, label in aliases if key not in taken)
        return told | _unambiguous(labels)

    def find(self, text: str) -> str | None:
        """Returns the label that a text names, by its text or else by its key, or None."""
        told = identity(text)
        for known, key in (
            (self._exact, told),
            (self._folded, told.casefold()),
            (self._keys, normalise(text)),
        ):
            if key in known:
                return known[key]
        return None

    def name_of(self, text: str) -> str:
        """Returns the name of the label that a text names; that of no label for any other text."""
        label = self.find(text)
        if label is not None:
            return self.names[label]
        key = normalise(text)
        is_taken = key in self.names.values() or any(normalise(one) == key for one in self.labels)
        return f"{key} {_OTHER}" if is_taken else key

    @cached_property
    def _spellings(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {label: [self.names[label]] for label in self.labels}
        for key, label in self._keys.items():
            if key not in found[label]:
                found[label].append(key)
        return {label: tuple(names) for label, names in found.items()}

    def spellings(self, label: str) -> tuple[str, ...]:
        """Returns every name of a label in normal form, its own first; no name is of two labels."""
        return self._spellings[label]


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Key -> owner of those that have one owner alone."""
    owners: dict[str, set[str]] = {}
    for key, owner in pairs:
        owners.setdefault(key, set()).add(owner)
    return {key: next(iter(own)) for key, own in owners.items() if key and len(own) == 1}


def name_of(label: str, vocabulary: Vocabulary | None) -> str:
    """Returns the name that a label is learned and compared by.

    Args:
        label: as it was written.
        vocabulary: the closed set; None where any text may be written.
    """
    return normalise(label) if vocabulary is None else vocabulary.name_of(label)


def match(label: str, vocabulary: Vocabulary, *, threshold: float = CLOSE_ENOUGH) -> str | None:
    """Returns the label of the vocabulary that a text means, or None if it is out of vocabulary.

    Tried in this order: the exact text, its normal form, an alias, then the closest spelling. Two
    labels equally close give None: a wrong name costs an annotator more than a missing one.
    """
    found = vocabulary.find(label)
    if found is not None:
        return found
    wanted = normalise(label)
    if any(normalise(one) == wanted for one in vocabulary.labels):
        return None  # the key of several labels says none of them
    best: dict[str, float] = {}
    for known, name in vocabulary._keys.items():
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
