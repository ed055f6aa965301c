"""Parser of typed requests: one of the three questions, names of things, or "what is this?".

In a project with a closed label set a name becomes a label: by its exact text, by alias, by its
last word where the words before it only say which one ("front legs" -> "leg"), or by spelling.
Other words before it may make another thing of it: a steering wheel is no wheel of a car. A name
without a label keeps an empty tuple, so that the reply can say so. Knows words; not images, masks
or tensors. The fixed words are in prompts.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from calico_model import prompts
from calico_model.errors import UnclearRequestError
from calico_model.types import RegionKind
from calico_model.vocabulary import Vocabulary, identity, match, normalise, similarity

MAX_REQUEST_LENGTH = 200
_LEAST_SIMILARITY = 0.5  # of spelling, from which an unknown word is taken for a label
_SHOWN_LABELS = 12
_SEPARATOR = re.compile(r"\s*(?:[,;&/]|(?<=\w)\s*\+\s*(?=\w)|\s\+\s|\band\b)\s*", re.IGNORECASE)
_LIST = re.compile(r"\s*(?:[,;]\s|\s\band\b\s)\s*", re.IGNORECASE)
_SENTENCE_END = ".,;:!?"
_OWNED = re.compile(r"(?P<thing>.+?)\s+(?:of|on|from|in)\s+(?P<owner>.+)", re.IGNORECASE)
_POSSESSED = re.compile(r"(?P<owner>.+?)['\u2019]s?\s+(?P<thing>.+)")
# All characters but spaces and punctuation: \w leaves out the vowel signs of many scripts.
_NO_WORD = (
    r"\s!\"#$%&()*+,./:;<=>?@\[\\\]^`{|}~\u00a1\u00ab\u00bb\u00bf\u2013\u2014\u201c\u201d\u2026"
)
_WORD = re.compile(rf"[^{_NO_WORD}\u3001\u3002\uff01\uff0c\uff1f]+[+#]*")
# Words that say which one of several alike things is meant, and make no other thing of it.
_WHICH_ONE = frozenset(
    ("front", "back", "rear", "hind", "left", "right", "upper", "lower", "top", "bottom", "middle")
    + ("inner", "outer", "side", "first", "second", "third", "last", "near", "far", "other", "both")
    + ("big", "small", "large", "little", "long", "short", "wide", "narrow", "thick", "thin", "old")
    + ("red", "orange", "yellow", "green", "blue", "brown", "black", "white", "grey", "gray")
)
_LATIN = re.compile(r"[a-z]+")
_UNSPEAKABLE = re.compile(r"[^aeiouy]{5}|(.)\1\1")
_SHORTEST_WITH_VOWEL = 3
_PARTS = (RegionKind.COMMON_PART, RegionKind.UNIQUE_PART)


@dataclass(frozen=True)
class Thing:
    """One named thing of a request.

    Attributes:
        words: the name as typed, without the request around it.
        labels: labels of the closed set, or the name in normal form if any name is allowed; () if
            no label is similar.
        owner: name of the object the thing belongs to, in normal form, or None.
        broader: a label that is the last word of the name and may mean something else; only
            without labels.
    """

    words: str
    labels: tuple[str, ...]
    owner: str | None = None
    broader: str | None = None

    @property
    def is_literal(self) -> bool:
        """Whether the only label is the typed name."""
        return [normalise(label) for label in self.labels] == [normalise(self.words)]


@dataclass(frozen=True)
class Request:
    """A parsed text; exactly one of the three attributes is set.

    Attributes:
        kinds: the questions that the text asks.
        things: named things to outline on every image.
        asks_name: whether the text asks for the name of the outlined place.
    """

    kinds: tuple[RegionKind, ...] = ()
    things: tuple[Thing, ...] = ()
    asks_name: bool = False


def read_request(text: str, vocabulary: Vocabulary | None = None) -> Request:
    """Parses a typed text.

    Args:
        text: "segment the handles", "what is different?", "leg, seat", "what is this?" ...
        vocabulary: the project's labels; None if any name is allowed.

    Raises:
        UnclearRequestError: the text is too long, or has neither a question nor a name.
    """
    if len(text) > MAX_REQUEST_LENGTH:
        raise UnclearRequestError(
            f"request: expected at most {MAX_REQUEST_LENGTH} characters, got {len(text)}"
        )
    if vocabulary is not None and (label := match(text, vocabulary, threshold=1.0)) is not None:
        return Request(things=(Thing(text.strip(), (label,)),))
    words = _WORD.findall(text)
    if words and all(_is_known(word) for word in words):
        if kinds := _kinds(words):
            return Request(kinds=kinds)
        if _has(words, prompts.POINTING_WORDS) and _has(words, prompts.NAMING_WORDS):
            return Request(asks_name=True)
    things = tuple(_things(text, vocabulary))
    if things:
        return Request(things=things)
    raise UnclearRequestError(
        f"request: expected a name, or a question such as {prompts.REQUEST_EXAMPLES}, got {text!r}"
    )


def unknown_words(things: Sequence[Thing], vocabulary: Vocabulary) -> str | None:
    """Returns a sentence about the things without a label, None if every thing has one."""
    sentences = []
    unlike = [f'"{t.words}"' for t in things if not t.labels and t.broader is None]
    if unlike:
        shown = ", ".join(f'"{label}"' for label in vocabulary.labels[:_SHOWN_LABELS])
        sentences.append(f"no label is like {' or '.join(unlike)}; the labels are {shown}")
    sentences += [
        f'I know "{thing.broader}", not "{thing.words}"'
        for thing in things
        if not thing.labels and thing.broader is not None
    ]
    return "; ".join(sentences) or None


def is_nonsense(words: str) -> bool:
    """Whether a name cannot be a word: no letters, or Latin letters that nobody can speak."""
    for word in words.lower().split():
        letters = "".join(sign for sign in word if sign.isalpha())
        if not letters:
            continue
        if not _LATIN.fullmatch(letters):
            return False  # another script: nothing is known about its words
        has_vowel = any(sign in "aeiouy" for sign in letters)
        if _UNSPEAKABLE.search(letters):
            return True
        if not has_vowel and len(letters) >= _SHORTEST_WITH_VOWEL:
            return True
    return not any(sign.isalpha() for sign in words)


def _kinds(words: Sequence[str]) -> tuple[RegionKind, ...]:
    """The questions that fixed words ask; "parts" alone asks for common and unique parts."""
    has_part, has_object = _has(words, prompts.PART_WORDS), _has(words, prompts.OBJECT_WORDS)
    if _has(words, prompts.UNIQUE_WORDS):
        return (RegionKind.UNIQUE_PART,)
    if _has(words, prompts.SHARED_WORDS):
        is_object = has_object and not has_part
        return (RegionKind.COMMON_OBJECT if is_object else RegionKind.COMMON_PART,)
    if _has(words, prompts.POINTING_WORDS):
        return ()
    if has_part:
        return _PARTS
    return (RegionKind.COMMON_OBJECT,) if has_object else ()


def _things(text: str, vocabulary: Vocabulary | None) -> Iterable[Thing]:
    """Yields the names in a text; labels written in full are tried before everything else."""
    if vocabulary is not None:
        listed = [_exact_thing(piece, vocabulary) for piece in _LIST.split(text)]
        if any(listed):
            for piece, thing in zip(_LIST.split(text), listed, strict=True):
                yield from (thing,) if thing is not None else _phrases(piece, vocabulary)
            return
    yield from _phrases(text, vocabulary)


def _exact_thing(text: str, vocabulary: Vocabulary) -> Thing | None:
    """The longest label written in full, with only fixed words and punctuation around it."""
    exact = {identity(label): label for label in vocabulary.labels}
    folded: dict[str, list[str]] = {}
    for written, label in exact.items():
        folded.setdefault(written.casefold(), []).append(label)
    phrases = [identity(phrase) for phrase in _without_fixed_words(text)]
    for phrase in phrases:
        if phrase in exact:
            return Thing(phrase, (exact[phrase],))
    for phrase in phrases:
        if len(folded.get(phrase.casefold(), ())) == 1:
            return Thing(phrase, (folded[phrase.casefold()][0],))
    return None


def _without_fixed_words(text: str) -> list[str]:
    """The text without some of the fixed words and punctuation at its ends, longest first."""
    words = text.split()
    known = [_is_known(word.strip(_SENTENCE_END)) for word in words]
    first = (*known, False).index(False)
    last = (*known[::-1], False).index(False)
    phrases = []
    for start in range(first + 1):
        for dropped in range(min(last, len(words) - start - 1) + 1):
            phrase = " ".join(words[start : len(words) - dropped])
            phrases.append(phrase)
            while phrase and phrase[-1] in _SENTENCE_END:
                phrase = phrase[:-1].rstrip()
                phrases.append(phrase)
    return sorted(phrases, key=len, reverse=True)


def _phrases(text: str, vocabulary: Vocabulary | None) -> Iterable[Thing]:
    phrase = _strip(text)
    if _labels(phrase, vocabulary, _exactly):
        pieces = [phrase]  # a label may hold "and" or a comma itself
    else:
        pieces = [_strip(piece) for piece in _SEPARATOR.split(phrase)]
    for piece in pieces:
        if piece:
            yield _thing(piece, vocabulary)


def _thing(phrase: str, vocabulary: Vocabulary | None) -> Thing:
    if labels := _labels(phrase, vocabulary, _exactly):
        return Thing(phrase, labels)
    owned = _OWNED.fullmatch(phrase) or _POSSESSED.fullmatch(phrase)
    thing, owner = phrase, ""
    if owned is not None:
        thing, owner = _strip(owned["thing"]), normalise(_strip(owned["owner"]))
    labels = _labels(thing, vocabulary, _nearest)
    broader = None if labels or vocabulary is None else _broader(thing, vocabulary)
    return Thing(thing, labels, owner or None, broader)


def _labels(
    words: str, vocabulary: Vocabulary | None, look: Callable[[str, Vocabulary], tuple[str, ...]]
) -> tuple[str, ...]:
    if vocabulary is not None:
        return look(words, vocabulary)
    is_plain = look is _nearest and bool(normalise(words))
    return (normalise(words),) if is_plain else ()


def _exactly(words: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    label = match(words, vocabulary, threshold=1.0)
    return () if label is None else (label,)


def _nearest(words: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """The label of a name, else all narrower labels, the broader label, or the most similar.

    () where a broader label may mean another thing.
    """
    label = match(words, vocabulary)
    if label is not None:
        return (label,)
    wanted = normalise(words).split()
    if not wanted:
        return ()
    narrower = [
        label for label in vocabulary.labels if normalise(label).split()[-1:] == wanted[-1:]
    ]
    if len(wanted) == 1 and narrower:
        return tuple(narrower)  # "wheel" stands for "front wheel" and "back wheel"
    broader = _broader(words, vocabulary)
    if broader is not None:
        return (broader,) if _WHICH_ONE.issuperset(wanted[:-1]) else ()
    ranked = sorted(
        ((similarity(words, label), label) for label in vocabulary.labels), reverse=True
    )
    if not ranked or ranked[0][0] < _LEAST_SIMILARITY:
        return ()
    return (ranked[0][1],)


def _broader(words: str, vocabulary: Vocabulary) -> str | None:
    """The label of a name's last word."""
    wanted = normalise(words).split()
    return match(wanted[-1], vocabulary) if wanted else None


def _strip(phrase: str) -> str:
    """A phrase without the fixed words and punctuation around it."""
    words = list(_WORD.finditer(phrase))
    while words and _is_known(words[0].group()):
        words.pop(0)
    while words and _is_known(words[-1].group()):
        words.pop()
    return phrase[words[0].start() : words[-1].end()] if words else ""


def _is_known(word: str) -> bool:
    return _has((word,), prompts.FIXED_WORDS)


def _has(words: Sequence[str], known: Set[str]) -> bool:
    """Whether any of the words, or its singular, is a known word."""
    return any(word.lower() in known or normalise(word) in known for word in words)
