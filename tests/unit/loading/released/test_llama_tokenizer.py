"""Llama's tokenizer with the tags: ids from the files, text as it was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calico_model import prompts
from calico_model.errors import CheckpointError
from calico_model.loading.released.llama_tokenizer import LlamaTokenizer, read_llama_tokenizer
from tests.unit.loading.released import writers

BASE = len(writers.sentencepiece_pieces())


@pytest.fixture
def glamm(tmp_path: Path) -> LlamaTokenizer:
    writers.write_llama_tokenizer(tmp_path / "glamm", tags=True)
    return read_llama_tokenizer(tmp_path / "glamm", "glamm")


def words(read: LlamaTokenizer, text: str) -> list[str]:
    return [read.by_id[i] for i in read.tokenizer.encode(text)]


def test_pieces_are_joined_best_first(glamm: LlamaTokenizer) -> None:
    assert words(glamm, "the leg") == ["▁the", "▁leg"]
    assert words(glamm, "common") == ["▁", "common"]
    assert words(glamm, "é") == ["▁", "<0xC3>", "<0xA9>"]
    assert words(glamm, "the\nleg") == ["▁the", "\n", "leg"]


def test_spaces_around_tags_belong_to_them(glamm: LlamaTokenizer) -> None:
    answer = "<p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2). </s>"
    bracket = ["▁(", "IMAGE"]
    assert words(glamm, answer) == [
        "<p>", "▁the", "▁leg", "</p>",
        "[SEG]", *bracket, "1", ")",
        "[SEG]", *bracket, "2", ")", ".", "</s>",
    ]  # fmt: skip
    again = glamm.tokenizer.decode(glamm.tokenizer.encode(answer))
    parsed = prompts.parse_answer(next(iter(prompts.QUESTIONS)), again)
    assert [(p.label, p.images) for p in parsed.phrases] == [("leg", (0, 1))]


def test_ids_are_what_the_files_say(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    writers.write_llama_tokenizer(folder, tags=False)
    order = ("[SEG]", "<p>", "</p>", "<im_start>", "<im_end>")
    listed = {token: BASE + k for k, token in enumerate(order)}
    config = {str(number): {"content": token} for token, number in listed.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": config}))
    read = read_llama_tokenizer(folder, "other")
    assert read.tokenizer.seg == BASE
    assert read.tokenizer.phrase_start == BASE + 1
    assert read.tokens_from(BASE + 5) == ("<bbox>", "<point>", "<image>")


def test_missing_tags_follow_in_glamms_order(tmp_path: Path) -> None:
    writers.write_llama_tokenizer(tmp_path, tags=False)
    read = read_llama_tokenizer(tmp_path, "vicuna")
    assert read.tokens_from(BASE) == (*writers.TAGS, "<image>")
    assert read.rows == BASE + 8


def test_a_tokenizer_json_gives_the_same_ids(glamm: LlamaTokenizer, tmp_path: Path) -> None:
    """Written by a library that leaves spaces around tags alone."""
    path = tmp_path / "tokenizer.json"
    glamm.tokenizer.save(path)
    raw = json.loads(path.read_text())
    raw["added_tokens"] = [
        entry | {"lstrip": False, "rstrip": False}
        for entry in raw["added_tokens"]
        if entry["content"] != "<image>"
    ]
    path.write_text(json.dumps(raw))
    again = read_llama_tokenizer(tmp_path, "json")
    text = prompts.conversation("the leg", 2) + " <p> the leg </p> [SEG] (IMAGE1) </s>"
    assert again.tokenizer.encode(text) == glamm.tokenizer.encode(text)
    assert again.tokenizer.image == glamm.tokenizer.image == BASE + 7


def test_ids_with_a_gap_are_refused(tmp_path: Path) -> None:
    writers.write_llama_tokenizer(tmp_path, tags=False)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[SEG]": BASE + 3}))
    with pytest.raises(CheckpointError, match=rf"'\[SEG\]': expected id {BASE + 3}, got {BASE}"):
        read_llama_tokenizer(tmp_path, "gap")
