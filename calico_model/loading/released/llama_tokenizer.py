"""Llama's tokenizer as released, completed with the tags of CALICO's grammar.

Reads `tokenizer.json`, or sentencepiece's `tokenizer.model`. Ids are never assumed: they are what
the files say, and tags the files lack follow in GLaMM's order.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE

from calico_model import prompts
from calico_model.errors import CheckpointError
from calico_model.tokenizer import Tokenizer

_UNKNOWN, _START = "<unk>", "<s>"
# GLaMM's order from row 32,000 on; <bbox> and <point> are its own and keep the rows in place.
_TAGS = (
    prompts.IMAGE_START,
    prompts.IMAGE_END,
    "<bbox>",
    "<point>",
    prompts.SEG,
    prompts.PHRASE_START,
    prompts.PHRASE_END,
)
_NORMAL, _BYTE_PAIRS = 1, 2


@dataclass(frozen=True)
class LlamaTokenizer:
    """A tokenizer and how many rows its ids need.

    Attributes:
        tokenizer: with every tag.
        rows: largest id + 1.
        by_id: token of each id.
    """

    tokenizer: Tokenizer
    rows: int
    by_id: dict[int, str]

    def tokens_from(self, row: int) -> tuple[str, ...]:
        """Tokens with ids of `row` and above."""
        return tuple(self.by_id[i] for i in sorted(self.by_id) if i >= row)


def read_llama_tokenizer(folder: Path, name: str) -> LlamaTokenizer:
    """Reads the tokenizer of a released model.

    Args:
        folder: with tokenizer.json or tokenizer.model, and added_tokens.json or
            tokenizer_config.json when tokens were added.
        name: of the folder, for messages.

    Raises:
        CheckpointError: no tokenizer, a damaged one, or ids that do not fit together.
    """
    if (folder / "tokenizer.json").is_file():
        rust = _from_json(folder / "tokenizer.json", name)
    elif (folder / "tokenizer.model").is_file():
        rust = _from_sentencepiece(folder / "tokenizer.model", name)
    else:
        raise CheckpointError(f"{name}: expected tokenizer.json or tokenizer.model beside the LLM")
    for token, wanted in sorted(_listed_tokens(folder, name).items(), key=lambda item: item[1]):
        rust.add_special_tokens([_tag(token)])
        if rust.token_to_id(token) != wanted:
            raise CheckpointError(
                f"{name}: added token {token!r}: expected id {wanted}, "
                f"got {rust.token_to_id(token)}"
            )
    # <image> comes last: its row is never looked at, image rows take its place.
    rust.add_special_tokens([_tag(token) for token in (*_TAGS, prompts.IMAGE_TOKEN)])
    by_id = {number: token for token, number in rust.get_vocab(with_added_tokens=True).items()}
    return LlamaTokenizer(Tokenizer(rust), max(by_id) + 1, by_id)


def _tag(token: str) -> AddedToken:
    # Spaces around a tag belong to it, as when GLaMM was trained: after [SEG] comes "▁(".
    return AddedToken(token, lstrip=True, rstrip=True, normalized=False)


def _from_json(path: Path, name: str) -> RustTokenizer:
    try:
        raw = json.loads(path.read_text("utf-8"))
        for entry in raw["added_tokens"]:
            if entry["content"] in (*_TAGS, prompts.IMAGE_TOKEN, prompts.END):
                entry |= {"lstrip": True, "rstrip": True, "normalized": False}
        return RustTokenizer.from_str(json.dumps(raw))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}/{path.name}: not a tokenizer file: {error!r}") from error
    except Exception as error:
        # The Rust side raises bare Exception on JSON of another form.
        if type(error) is not Exception:
            raise
        raise CheckpointError(f"{name}/{path.name}: not a tokenizer file: {error}") from error


def _listed_tokens(folder: Path, name: str) -> dict[str, int]:
    """Tokens a release added to its base tokenizer, with their ids."""
    tokens: dict[str, int] = {}
    try:
        path = folder / "tokenizer_config.json"
        if path.is_file():
            decoder = json.loads(path.read_text("utf-8")).get("added_tokens_decoder", {})
            tokens |= {str(entry["content"]): int(number) for number, entry in decoder.items()}
        path = folder / "added_tokens.json"
        if path.is_file():
            listed = json.loads(path.read_text("utf-8"))
            tokens |= {str(token): int(number) for token, number in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{name}/{path.name}: not a list of added tokens: {error!r}"
        ) from error
    return tokens


def _from_sentencepiece(path: Path, name: str) -> RustTokenizer:
    """Builds the byte-pair tokenizer sentencepiece stores as pieces with scores."""
    try:
        pieces = list(_pieces(path.read_bytes()))
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise CheckpointError(
            f"{name}/{path.name}: not a byte-pair model of sentencepiece: {error}"
        ) from error
    vocabulary = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    rust = RustTokenizer(
        BPE(
            vocabulary,
            _merges(pieces),
            unk_token=_UNKNOWN,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    # The whole text is one word: pieces may hold spaces, and each stretch of text between tags
    # begins with one.
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    rust.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    rust.add_special_tokens([AddedToken(token, normalized=False) for token in (_UNKNOWN, _START)])
    rust.add_special_tokens([_tag(prompts.END)])
    return rust


def _merges(pieces: list[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Pairs to merge, best first: sentencepiece joins what makes the piece of highest score."""
    score = {piece: value for piece, value, kind in pieces if kind == _NORMAL}
    pairs = [
        (-score[piece], cut, piece)
        for piece in score
        for cut in range(1, len(piece))
        if piece[:cut] in score and piece[cut:] in score
    ]
    return [(piece[:cut], piece[cut:]) for _, cut, piece in sorted(pairs)]


def _pieces(model: bytes) -> Iterator[tuple[str, float, int]]:
    """Yields (piece, score, kind) of a serialised ModelProto; field numbers are its schema's."""
    count = 0
    for field, value in _fields(model):
        if field == 1 and isinstance(value, bytes):
            entry: dict[int, Any] = dict(_fields(value))
            yield entry[1].decode("utf-8"), float(entry.get(2, 0.0)), int(entry.get(3, _NORMAL))
            count += 1
        elif field == 2 and isinstance(value, bytes) and dict(_fields(value)).get(3) != _BYTE_PAIRS:
            raise ValueError("its pieces are not byte pairs")
    if not count:
        raise ValueError("no pieces")


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int | float]]:
    """Walks one protobuf message: varints, 8 and 4 byte numbers, and byte strings."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            number, at = _varint(message, at)
            yield field, number
        elif wire == 1:
            at += 8
        elif wire == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("truncated")
            yield field, message[at : at + length]
            at += length
        elif wire == 5:
            yield field, struct.unpack_from("<f", message, at)[0]
            at += 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
