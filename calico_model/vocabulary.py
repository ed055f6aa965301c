"""Names of the model and labels of a project, and the mapping between them.

Two labels of a closed set are different if their exact texts (`identity`) are. A label is also
found by its normal form, unless another label has the same one. In a project where any text may be
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
"""Words of a name that means another thing in a mirrored image."""

ARTICLES = frozenset({"a", "an", "the"})
_POSSESSIVE = re.compile(r"['\u2019]s?\b")
_IN_WORDS = frozenset("#%\u200c\u200d")  # beside letters, marks, numbers and symbols
_ANGLE = re.compile(r"([<>])")
_MOST_PASSES = 4
_DIGEST = 8  # hexadecimal digits
_OTHER = "0000"  # follows the key of a label, for a text with that key that is not the label
_SHORTEST_TYPO = 4  # shorter words often differ by one letter: leg / peg / log

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
    """Returns the text of a label in Unicode NFC, trimmed, with single spaces.

    Labels of a closed set are compared in that form.
    """
    return " ".join(unicodedata.normalize("NFC", label).split())


@lru_cache(maxsize=1 << 14)
def normalise(label: str) -> str:
    """Returns the normal form of a label: "The_Front Wheels" -> "front wheel".

    Lower case, without articles, punctuation and possessives, with spaces for "_", ":" and "-",
    single spaces, and singulars for English plurals. Marks and symbols stay: they are parts of
    words in many scripts, and "C++" is not "C". The last word is never an article ("Class A"). A
    label of punctuation alone keeps the punctuation. The normal form of a normal form is itself.
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
    # Spaces around angle brackets, so that no label is a tag of the answer grammar.
    words = _ANGLE.sub(r" \1 ", "".join(c if _is_in_word(c) else " " for c in bare)).split()
    if not words:
        return " ".join(text.split())
    kept = [word for word in words[:-1] if word not in ARTICLES] + words[-1:]
    return " ".join(_singular(word) for word in kept)


def _is_in_word(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "LMNS" or sign in _IN_WORDS


def _singular(word: str) -> str:
    """The singular of a simple English plural; any other word as it is."""
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
    """Returns the cosine in [0, 1] of two labels' hashed counts of character 3- to 5-grams.

    Replaces a sentence encoder (`ss_backend=ngram`). It compares spelling, not meaning, needs no
    weights and gives the same number on every machine.
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
        labels: canonical labels, as the project writes them; no two have the same `identity`.
        aliases: other names -> the label of `labels` they stand for.

    Raises:
        InvalidConfigError: empty or repeated labels, or an alias of an unknown label.
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
        """Label -> the name that the model learns and writes: its normal form, made unique.

        A name does not depend on the order of labels: a label keeps its name until another label
        of the same normal form is added or removed.
        """
        shared = Counter(map(normalise, self.labels))
        names = {label: normalise(label) for label in self.labels}
        for label, key in names.items():
            if shared[key] > 1:
                digest = hashlib.sha256(identity(label).encode()).hexdigest()[:_DIGEST]
                names[label] = normalise(f"{key} {digest}")
        return names

    @cached_property
    def _exact(self) -> dict[str, str]:
        """Text of every label, name and alias -> label; a label wins over a name over an alias."""
        aliases = _unambiguous((identity(alias), label) for alias, label in self.aliases.items())
        names = {name: label for label, name in self.names.items()}
        return aliases | names | {identity(label): label for label in self.labels}

    @cached_property
    def _folded(self) -> dict[str, str]:
        """Case-folded text of labels -> label; without texts of several labels."""
        return _unambiguous((identity(label).casefold(), label) for label in self.labels)

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Normal form of labels and aliases -> label; without normal forms of several labels."""
        labels = [(normalise(label), label) for label in self.labels]
        taken = {key for key, _ in labels}
        aliases = [(normalise(alias), label) for alias, label in self.aliases.items()]
        free = _unambiguous((key, label) for key, label in aliases if key not in taken)
        return free | _unambiguous(labels)

    def find(self, text: str) -> str | None:
        """Returns the label of a text, by exact text, by case-folded text or by normal form."""
        exact = identity(text)
        for known, key in (
            (self._exact, exact),
            (self._folded, exact.casefold()),
            (self._keys, normalise(text)),
        ):
            if key in known:
                return known[key]
        return None

    def name_of(self, text: str) -> str:
        """Returns the name of the label of a text; for another text a name that no label has."""
        label = self.find(text)
        if label is not None:
            return self.names[label]
        key = normalise(text)
        is_taken = key in self.names.values() or key in map(normalise, self.labels)
        return f"{key} {_OTHER}" if is_taken else key

    @cached_property
    def _spellings(self) -> dict[str, tuple[str, ...]]:
        spellings: dict[str, list[str]] = {label: [self.names[label]] for label in self.labels}
        for key, label in self._keys.items():
            if key not in spellings[label]:
                spellings[label].append(key)
        return {label: tuple(names) for label, names in spellings.items()}

    def spellings(self, label: str) -> tuple[str, ...]:
        """Returns the name of a label and the other normal forms of it; no two labels share one."""
        return self._spellings[label]


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Key -> owner, from (key, owner) pairs; without keys of several owners."""
    owners: dict[str, set[str]] = {}
    for key, owner in pairs:
        owners.setdefault(key, set()).add(owner)
    return {key: next(iter(names)) for key, names in owners.items() if key and len(names) == 1}


def name_of(label: str, vocabulary: Vocabulary | None) -> str:
    """Returns the name of a label for learning and comparison.

    Args:
        label: as an annotator wrote it.
        vocabulary: the closed set; None if any text may be written.
    """
    return normalise(label) if vocabulary is None else vocabulary.name_of(label)


def match(label: str, vocabulary: Vocabulary, *, threshold: float = CLOSE_ENOUGH) -> str | None:
    """Returns the label of the vocabulary that a text means, or None if it is out of vocabulary.

    Tried in this order: the exact text, its normal form, an alias, then the closest spelling. Two
    labels equally close give None: a wrong name costs an annotator more than a missing name.
    """
    exact = vocabulary.find(label)
    if exact is not None:
        return exact
    wanted = normalise(label)
    if wanted in map(normalise, vocabulary.labels):
        return None  # several labels have this normal form
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
    """Returns how likely one of two normalised labels is a misspelling of the other, in [0, 1].

    1 if they differ by spaces only ("seatback"). Otherwise they are compared word by word and the
    worst word decides: "left leg" is never "right leg", however many letters they share.
    """
    if left.replace(" ", "") == right.replace(" ", ""):
        return 1.0
    left_words, right_words = left.split(), right.split()
    if len(left_words) != len(right_words) or not left_words:
        return 0.0
    return min(_word_closeness(a, b) for a, b in zip(left_words, right_words, strict=True))


def _word_closeness(left: str, right: str) -> float:
    if left == right:
        return 1.0
    long_enough = min(len(left), len(right)) >= _SHORTEST_TYPO
    # The first letter is seldom wrong; wing / ring and handle / candle are different things.
    if not long_enough or left[0] != right[0] or not (left.isalpha() and right.isalpha()):
        return 0.0
    return 1.0 - _edits(left, right) / max(len(left), len(right))


def _edits(left: str, right: str) -> int:
    """Least number of insertions, deletions, replacements and swaps of neighbours."""
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
