from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordLevel

from calico_model import prompts
from calico_model.data.catalogue import HELD_OUT_CATEGORIES, HELD_OUT_PARTS, PART_NAMES
from calico_model.errors import CheckpointError
from calico_model.presets import small_tokenizer
from calico_model.tokenizer import RESERVED_LABELS, Tokenizer

SMALL = small_tokenizer()


def test_known_part_words_cost_one_token_each() -> None:
    for name in set(PART_NAMES) - set(HELD_OUT_PARTS):
        assert len(SMALL.encode(name)) == len(name.split())


def test_names_kept_out_of_training_are_spelled() -> None:
    for name in (*HELD_OUT_PARTS, *HELD_OUT_CATEGORIES):
        assert len(SMALL.encode(name)) > 2


def test_a_name_is_known_by_its_words_or_as_a_label() -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.knows(PART_NAMES[0])
    assert tokenizer.knows(f"the {PART_NAMES[0]}")
    assert not any(map(tokenizer.knows, ("asdfgh", "", f"xyzzy {PART_NAMES[0]}")))
    assert tokenizer.with_labels(("xyzzy",)).knows("xyzzy")


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12))
def test_any_word_can_be_written(word: str) -> None:
    if any(tag in word for tag in ("<", "(", "[")):
        return
    assert SMALL.decode(SMALL.encode(word)).strip() == word.strip()


def test_an_answer_survives_the_round_trip() -> None:
    text = "The images show <p> the wing </p> [SEG] (IMAGE1) [SEG] (IMAGE8). </s>"
    again = SMALL.decode(SMALL.encode(text))
    assert "".join(again.split()) == "".join(text.split())
    assert SMALL.encode(text).count(SMALL.seg) == 2


def test_rows_are_reserved_for_a_projects_labels() -> None:
    ids = {SMALL.encode(f"<label_{k}>")[0] for k in range(RESERVED_LABELS)}
    assert len(ids) == RESERVED_LABELS
    assert max(ids) < SMALL.size


def test_saved_tokenizer_equals_the_built_one(tmp_path: Path) -> None:
    SMALL.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    text = prompts.conversation(prompts.QUESTIONS[next(iter(prompts.QUESTIONS))][0], 3)
    assert again.encode(text) == SMALL.encode(text)


def test_a_tokenizer_without_the_tags_is_refused() -> None:
    with pytest.raises(CheckpointError, match="<image>"):
        Tokenizer(RustTokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>")))


@pytest.mark.parametrize("content", ["", "{", '{"model": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        Tokenizer.from_file(path)
