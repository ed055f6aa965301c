"""What an annotator types, read: one of the three questions, things by name, or "what is this?".

Names are put into the project's label set where it is closed: exact, by alias, by the thing they
end in ("front legs" -> "leg"), by spelling. What has no label keeps none, so that whoever answers
can say so. Knows words; not images, masks or tensors. The fixed words are in prompts.py.
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
_ALIKE = 0.5  # smallest spelling similarity at which an unknown word is taken for a label
_SHOWN_LABELS = 12
_SEPARATOR = re.compile(r"\s*(?:[,;&/]|(?<=\w)\s*\+\s*(?=\w)|\s\+\s|\band\b)\s*", re.IGNORECASE)
_LIST = re.compile(r"\s*(?:[,;]\s|\s\band\b\s)\s*", re.IGNORECASE)
_SENTENCE_END = ".,;:!?"
_OWNED = re.compile(r"(?P<thing>.+?)\s+(?:of|on|from|in)\s+(?P<owner>.+)", re.IGNORECASE)
_POSSESSED = re.compile(r"(?P<owner>.+?)['\u2019]s?\s+(?P<thing>.+)")
# Whatever is no space and no punctuation: \w leaves out the vowel signs of many scripts.
_NO_WORD = (
    r"\s!\"#$%&()*+,./:;<=>?@\[\\\]^`{|}~\u00a1\u00ab\u00bb\u00bf\u2013\u2014\u201c\u201d\u2026"
)
_WORD = re.compile(rf"[^{_NO_WORD}\u3001\u3002\uff01\uff0c\uff1f]+[+#]*")
_PARTS = (RegionKind.COMMON_PART, RegionKind.UNIQUE_PART)


@dataclass(frozen=True)
class Thing:
    """One thing asked for by name.

    Attributes:
        words: as typed, without the request around it.
        labels: what to look for: labels of the closed set, or the words in normal form when any
            name is allowed; () when no label is like it.
        owner: the object it belongs to, in normal form, or None.
    """

    words: str
    labels: tuple[str, ...]
    owner: str | None = None

    @property
    def is_literal(self) -> bool:
        """Whether what is looked for is what was typed."""
        return [normalise(label) for label in self.labels] == [normalise(self.words)]


@dataclass(frozen=True)
class Request:
    """What a typed text asks for; exactly one of the three is set.

    Attributes:
        kinds: the questions it is a wording of.
        things: what to outline on every image.
        asks_name: the text asks what the outlined place is.
    """

    kinds: tuple[RegionKind, ...] = ()
    things: tuple[Thing, ...] = ()
    asks_name: bool = False


def read_request(text: str, vocabulary: Vocabulary | None = None) -> Request:
    """Reads a typed text.

    Args:
        text: "segment the handles", "what is different?", "leg, seat", "what is this?" ...
        vocabulary: the project's labels; None when any name is allowed.

    Raises:
        UnclearRequestError: too long, or without a word that says what is wanted.
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


def unknown_words(things: Iterable[Thing], vocabulary: Vocabulary) -> str | None:
    """Returns a sentence on the things that no label is like, None if there are none."""
    unknown = [repr(thing.words) for thing in things if not thing.labels]
    if not unknown:
        return None
    shown = ", ".join(vocabulary.labels[:_SHOWN_LABELS])
    rest = len(vocabulary.labels) - _SHOWN_LABELS
    more = f" and {rest} more" if rest > 0 else ""
    return f"no label is like {' or '.join(unknown)}; the labels are {shown}{more}"


def _kinds(words: Sequence[str]) -> tuple[RegionKind, ...]:
    """Which questions fixed words ask; "parts" alone asks for all of them."""
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
    """The names in a text, one by one; labels that are written out come before anything else."""
    if vocabulary is not None:
        listed = [_exact_thing(piece, vocabulary) for piece in _LIST.split(text)]
        if any(listed):
            for piece, thing in zip(_LIST.split(text), listed, strict=True):
                yield from (thing,) if thing is not None else _phrases(piece, vocabulary)
            return
    yield from _phrases(text, vocabulary)


def _exact_thing(text: str, vocabulary: Vocabulary) -> Thing | None:
    """The longest label that is written out, with only fixed words and a full stop around it."""
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
    """A text with ever more of the fixed words and the punctuation around it left out."""
    words = text.split()
    known = [_is_known(word.strip(_SENTENCE_END)) for word in words]
    first = (*known, False).index(False)
    last = (*known[::-1], False).index(False)
    found = []
    for start in range(first + 1):
        for gone in range(min(last, len(words) - start - 1) + 1):
            phrase = " ".join(words[start : len(words) - gone])
            found.append(phrase)
            while phrase and phrase[-1] in _SENTENCE_END:
                phrase = phrase[:-1].rstrip()
                found.append(phrase)
    return sorted(found, key=len, reverse=True)


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
    if owned is None:
        return Thing(phrase, _labels(phrase, vocabulary, _nearest))
    thing, owner = _strip(owned["thing"]), normalise(_strip(owned["owner"]))
    return Thing(thing, _labels(thing, vocabulary, _nearest), owner or None)


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
    """The label meant: itself, the kinds of it, what it is a kind of, or the most alike."""
    label = match(words, vocabulary)
    if label is not None:
        return (label,)
    wanted = normalise(words).split()
    if not wanted:
        return ()
    narrower = [one for one in vocabulary.labels if normalise(one).split()[-1:] == wanted[-1:]]
    if len(wanted) == 1 and narrower:
        return tuple(narrower)  # "wheel" stands for "front wheel" and "back wheel"
    broader = match(wanted[-1], vocabulary)
    if broader is not None:
        return (broader,)
    ranked = sorted(((similarity(words, one), one) for one in vocabulary.labels), reverse=True)
    if not ranked or ranked[0][0] < _ALIKE:
        return ()
    return (ranked[0][1],)


def _strip(phrase: str) -> str:
    """A phrase without the fixed words and punctuation around it."""
    found = list(_WORD.finditer(phrase))
    while found and _is_known(found[0].group()):
        found.pop(0)
    while found and _is_known(found[-1].group()):
        found.pop()
    return phrase[found[0].start() : found[-1].end()] if found else ""


def _is_known(word: str) -> bool:
    return _has((word,), prompts.FIXED_WORDS)


def _has(words: Sequence[str], known: Set[str]) -> bool:
    """Whether one of the words, or its singular, is among the known ones."""
    return any(word.lower() in known or normalise(word) in known for word in words)
