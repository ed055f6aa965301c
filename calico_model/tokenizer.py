"""Text to token ids and back, for Llama's tokenizer and for the small one built here.

The small tokenizer gives each known word one token, spells any other word by letters, any other
character by bytes, and keeps reserved rows for a project's own labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import Unigram

from calico_model import prompts
from calico_model.errors import CheckpointError
from calico_model.types import MAX_GROUP_SIZE

RESERVED_LABELS = 64
_UNKNOWN, _PAD, _START = "<unk>", "<pad>", "<s>"
_TAGS = (
    prompts.IMAGE_START,
    prompts.IMAGE_END,
    prompts.IMAGE_TOKEN,
    prompts.SEG,
    prompts.PHRASE_START,
    prompts.PHRASE_END,
    prompts.END,
)
_BEFORE = f"{prompts.PHRASE_START} the"
_NAMED = re.compile(rf"{prompts.PHRASE_START}(.*?){prompts.PHRASE_END}", re.DOTALL)


class Tokenizer:
    """A `tokenizers` tokenizer with the ids the model needs by name.

    Attributes:
        image, seg, phrase_start, phrase_end, end: ids of the grammar's tags.
        start: id of the token that begins every conversation, None for a model without it.
        labels: names that have one reserved token each instead of being spelled.

    Raises:
        CheckpointError: a tag of the grammar has no token.
    """

    def __init__(self, rust: RustTokenizer, labels: tuple[str, ...] = ()) -> None:
        self._rust = rust
        self.labels = labels
        self._tags = {label: f"<label_{k}>" for k, label in enumerate(labels)}
        self.image = self._id(prompts.IMAGE_TOKEN)
        self.seg = self._id(prompts.SEG)
        self.phrase_start = self._id(prompts.PHRASE_START)
        self.phrase_end = self._id(prompts.PHRASE_END)
        self.end = self._id(prompts.END)
        self.start: int | None = rust.token_to_id(_START)

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Reads a `tokenizer.json`.

        Raises:
            CheckpointError: missing or unreadable file, or a tag without a token.
        """
        try:
            return cls(RustTokenizer.from_str(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path.name}: not a tokenizer file: {error}") from error
        except Exception as error:
            # The Rust side raises bare Exception on malformed JSON.
            if type(error) is not Exception:
                raise
            raise CheckpointError(f"{path.name}: not a tokenizer file: {error}") from error

    def save(self, path: Path) -> None:
        """Writes `tokenizer.json`."""
        path.write_text(self._rust.to_str(pretty=False), "utf-8")

    @property
    def size(self) -> int:
        """Number of rows an embedding needs."""
        return int(self._rust.get_vocab_size(with_added_tokens=True))

    @property
    def label_ids(self) -> tuple[int, ...]:
        """Ids of the tokens reserved for labels; none in a tokenizer made by others."""
        ids = (self._rust.token_to_id(f"<label_{k}>") for k in range(RESERVED_LABELS))
        return tuple(int(i) for i in ids if i is not None)

    def with_labels(self, labels: Sequence[str]) -> Tokenizer:
        """Returns a tokenizer that writes label k of a phrase as the k-th reserved token.

        Args:
            labels: different names as `prompts.clean_label` leaves them.

        Raises:
            CheckpointError: more labels than reserved tokens.
        """
        if len(labels) > len(self.label_ids):
            raise CheckpointError(
                f"tokenizer.json: expected at most {len(self.label_ids)} labels of a project's "
                f"own, got {len(labels)}"
            )
        return Tokenizer(self._rust, tuple(labels))

    def knows(self, name: str) -> bool:
        """Whether there are words for a name: each is a token, or the whole name is a label.

        A tokenizer made by others has pieces for every word; nothing can be said about its words.
        """
        if not self.label_ids or prompts.clean_label(name) in self.labels:
            return True
        words = prompts.clean_label(name).split()
        return bool(words) and all(len(self.encode(word)) == 1 for word in words)

    def encode(self, text: str) -> list[int]:
        """Returns token ids; no begin or end token is added."""
        if self._tags:
            text = _NAMED.sub(self._with_tag, text)
        return list(self._rust.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns text with the tags of the grammar kept."""
        text = str(self._rust.decode(list(ids), skip_special_tokens=False))
        for label, tag in self._tags.items():
            text = text.replace(tag, f" {label} ")
        return text

    def _with_tag(self, phrase: re.Match[str]) -> str:
        tag = self._tags.get(prompts.clean_label(phrase.group(1)))
        return phrase.group(0) if tag is None else f"{_BEFORE} {tag} {prompts.PHRASE_END}"

    def _id(self, token: str) -> int:
        token_id = self._rust.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"tokenizer.json: no token for {token!r}")
        return int(token_id)


def build_small_tokenizer(words: Iterable[str]) -> Tokenizer:
    """Builds the small tokenizer.

    Args:
        words: known words; each becomes one token after a space.

    Returns:
        A tokenizer that can write any text.
    """
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!'\"()-/_&+"
    whole = sorted({f"▁{w}" for w in words} | {w for w in words if not w.isalpha()})
    known = [_UNKNOWN, *whole]
    known += [p for p in ("▁", *letters) if p not in set(whole)]
    known += [f"<0x{byte:02X}>" for byte in range(256)]
    # Longest known piece wins: whole words cost little, letters more, bytes most.
    whole_set = set(whole)
    scores = [
        (piece, -1.0 if piece in whole_set else (-40.0 if piece.startswith("<0x") else -10.0))
        for piece in known
    ]
    rust = RustTokenizer(Unigram(scores, unk_id=0, byte_fallback=True))
    rust.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always", split=True)]
    )
    rust.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    images = [f"(IMAGE{k + 1})" for k in range(MAX_GROUP_SIZE)]
    reserved = [f"<label_{k}>" for k in range(RESERVED_LABELS)]
    rust.add_special_tokens(
        [
            AddedToken(t, lstrip=True, rstrip=True, normalized=False)
            for t in (_PAD, *_TAGS, *images, *reserved)
        ]
    )
    return Tokenizer(rust)
