"""Two labels of a config are two labels everywhere, in whatever script they are written.

520 random pairs in 20 scripts, most of them alike on purpose, go the whole way: predicted, clicked,
asked for, corrected, learned and exported.
"""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from backend.cli.corrections_export import write_coco, write_records
from backend.label_studio.brush import encode_mask
from backend.label_studio.event import parse_events
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_set import vocabulary_in
from backend.label_studio.result import render_prediction
from backend.learning.correction import RegionChange
from backend.learning.derivation import Derivation
from backend.learning.examples import region_targets
from backend.learning.repository import CorrectionRepository
from backend.learning.rows import StartingPoint
from backend.learning.supervision import training_targets, true_parts
from backend.serving.click_targets import prompt_chains, prompted_region
from backend.serving.text_prompts import answer_question
from backend.storage.store import open_store
from backend.types import Prompt, Region, RegionOrigin, TextPrompt
from calico_model import prompts
from calico_model.interactive.naming.closed_set import ClosedSet
from calico_model.interactive.naming.label_trie import build_trie
from calico_model.presets import small_tokenizer
from calico_model.training.online.dense_images import cell_codes
from calico_model.types import GroupPrediction, ImageGroup, PartMask, RegionKind
from calico_model.vocabulary import identity, match
from tests.doubles import ModelDouble, reference
from tests.unit.learning.annotated import START, box

SCRIPTS = {
    "Latin": "wing leg glass Class rim lens body knife foot é ü ñ ß",
    "Cyrillic": "крона ствол лист ухо ёлка й",
    "Greek": "πόδι φύλλο αυτί",
    "Armenian": "տերև ականջ",
    "Georgian": "ფოთოლი ყური",
    "Hebrew": "עלה אוזן סֵפֶר",
    "Arabic": "ورقة أذن كِتاب",
    "Persian": "می\u200cخواهم گوش",
    "Devanagari": "कान कोना पत्ता आँख",
    "Bengali": "কান কোণ পাতা",
    "Tamil": "காது இலை கால்",
    "Telugu": "చెవి ఆకు",
    "Thai": "หู ใบ ขา น้ำ",
    "Burmese": "နား ရွက်",
    "Khmer": "ត្រចៀក ស្លឹក",
    "Amharic": "ጆሮ ቅጠል",
    "Han": "耳 葉 樹冠 脚",
    "Kana": "みみ ハ ば は",
    "Hangul": "귀 잎 다리",
    "Symbols": "+ - ± < > = ? ! # % & * / 👍 👎 ❤ 🌳 👩\u200d🚒 → ← ° № [ ( ] )",
}
EACH = 26
MARKS = {
    "Devanagari": "\u093e\u094b\u0940\u094d",
    "Bengali": "\u09be\u09bf",
    "Tamil": "\u0bbe\u0bbf",
    "Telugu": "\u0c3e\u0c3f",
    "Thai": "\u0e48\u0e34",
    "Hebrew": "\u05b0\u05b7",
    "Arabic": "\u0650\u064e",
    "Khmer": "\u17b6\u17b7",
    "Burmese": "\u102b\u102d",
}
SIZE = (40, 60)
LEFT, RIGHT = box(2, 2, 30, 20, size=SIZE), box(2, 30, 30, 50, size=SIZE)
IMAGES = tuple(np.full((*SIZE, 3), 90 * k, np.uint8) for k in range(2))
GROUP = ImageGroup(IMAGES, ("a", "b"))
PART = RegionKind.COMMON_PART


def pairs(script: str) -> list[tuple[str, str]]:
    """Pairs of different labels: words of a script, and what is easily taken for them."""
    rng = random.Random(f"labels/{script}")
    words = SCRIPTS[script].split()
    found: list[tuple[str, str]] = []
    while len(found) < EACH:
        word = " ".join(rng.choices(words, k=rng.choice([1, 1, 2])))
        mark = rng.choice(MARKS.get(script, "\u0301\u0323"))
        other = rng.choice(
            [
                f"{word}{mark}", f"{word}s", f"{word}es", word.upper(), word.title(), f"The {word}",
                f"{word} A", f"{word} +", f"{word} -", f"{word}+", f"{word}++", f"<{word}",
                f">{word}", f"{word}'s", f"{word}!", f"{word}?", f"({word})", f"{word} 1",
                f"{word}_{word}", f"{word}-{word}", f"{word} {word}", rng.choice(words),
                word[:-1] or "x", f"</p>{word}", f"[SEG] {word}",
            ]
        )  # fmt: skip
        pair = word, unicodedata.normalize(rng.choice(["NFC", "NFD"]), other).strip()
        if all(pair) and identity(pair[0]) != identity(pair[1]):
            found.append(pair if rng.random() < 0.5 else pair[::-1])
    return found


def config(labels: tuple[str, ...]) -> str:
    offered = "".join(f"<Label value={quoteattr(label)}/>" for label in labels)
    tags = "".join(
        f'<Image name="i{k}" value="$i{k}"/>'
        f'<BrushLabels name="b{k}" toName="i{k}">{offered}</BrushLabels>'
        f'<KeyPointLabels name="p{k}" toName="i{k}" smart="true">{offered}</KeyPointLabels>'
        for k in range(2)
    )
    return f"<View>{tags}</View>"


def drawn(id_: str, mask: np.ndarray, label: str) -> dict[str, object]:
    return {
        "id": id_, "from_name": "b0", "to_name": "i0", "type": "brushlabels",
        "original_height": SIZE[0], "original_width": SIZE[1], "origin": "prediction",
        "value": {"format": "rle", "rle": encode_mask(mask), "brushlabels": [label]},
    }  # fmt: skip


class Predictions:
    def __init__(self, regions: list[dict[str, object]]) -> None:
        self.regions = regions

    def find(self, prediction_id: int) -> StartingPoint:
        return StartingPoint(prediction_id, "v1", json.dumps(self.regions).encode())


class Model(ModelDouble):
    """Finds what it is asked for by name, and remembers the names."""

    version = "v1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict(self, group):
        raise AssertionError("nobody asked for a prediction")

    def refer(self, group, names, group_prediction):
        self.asked += [name for name, _ in names]
        return [
            reference(name, (PartMask(0, PART, name, LEFT, score=0.9),), (1,)) for name, _ in names
        ]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    store = open_store(f"sqlite:///{folder / 'calico.sqlite3'}", commit_timeout_s=30)
    yield CorrectionRepository(store)
    store.close()


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


def names_of(pair, vocabulary):
    return [vocabulary.names[label] for label in pair]


def is_predicted_as_itself(pair, schema, vocabulary):
    for label in pair:
        for spelling in (label, vocabulary.names[label]):
            assert match(spelling, vocabulary) == label
            one = GroupPrediction((PartMask(0, PART, spelling, LEFT),), "v1")
            (shape,) = json.loads(render_prediction(one, schema, sizes_hw=[SIZE] * 2).result)
            assert shape["value"]["brushlabels"] == [label]


def is_said_as_itself(pair, vocabulary, tokenizer):
    trie = build_trie(vocabulary, tokenizer)
    assert len(trie.ends) == len(set(trie.ends.tolist()))
    assert set(trie.owners.tolist()) == set(range(len(vocabulary.labels)))
    names = names_of(pair, vocabulary)
    speaking = tokenizer.with_labels(names)
    written = []
    for name in names:
        phrase = prompts.Phrase(name, (0,), False)
        shown = prompts.Phrase("object", (0,), True)
        text = prompts.write_answer(PART, [shown], [phrase])
        for words in (tokenizer, speaking):
            parsed = prompts.parse_answer(PART, words.decode(words.encode(text)))
            assert [one.label for one in parsed.phrases] == ["object", name]
            assert parsed.malformed == 0
        written.append(speaking.encode(text))
    assert written[0] != written[1]


def is_clicked_as_itself(pair, vocabulary):
    canvas = [
        Region(f"r{n}", 0, SIZE, None, label, RegionOrigin.MANUAL, None, lambda: LEFT, b"")
        for n, label in enumerate(pair)
    ]
    clicks = [Prompt(f"c{n}", 0, (8.0, 8.0, 8.0, 8.0), label=label) for n, label in enumerate(pair)]
    assert len(prompt_chains(clicks)) == 2
    for click, own, other in zip(clicks, canvas, canvas[::-1], strict=True):
        assert prompted_region(click, [other], SIZE, vocabulary) is None
        assert prompted_region(click, [other, own], SIZE, vocabulary) is own


def is_asked_for_as_itself(pair, vocabulary):
    group_prediction = GroupPrediction((), "v1")
    asked = []
    for label in pair:
        for text in (label, f"segment the {label}", f"please find {label}."):
            model = Model()
            reply = answer_question(
                TextPrompt("q", 0, text), GROUP, group_prediction, model, ClosedSet(vocabulary)
            )
            assert {part.label for part in reply.prediction.parts} == {label}, text
        asked.append(set(model.asked))
    assert not asked[0] & asked[1]


def corrected(pair, project, repository):
    """Both regions were predicted as the first label, and the second one is put right."""
    first, second = pair
    before = [drawn("a", LEFT, first), drawn("b", RIGHT, first)]
    body = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": project, "label_config": config((*pair, "other"))},
        "task": {"id": project, "data": {"i0": "/data/a.png", "i1": "/data/b.png"}},
        "annotation": {
            "id": project,
            "task": project,
            "updated_at": START.isoformat(),
            "parent_prediction": 1,
            "result": [drawn("a", LEFT, first), drawn("b", RIGHT, second)],
        },
    }
    repository.store.record_events(parse_events(json.dumps(body).encode()))
    derivation = Derivation(repository, Predictions(before))
    derivation.derive(project)
    (row,) = repository.tasks(project)
    assert (row.tally.accepted, row.tally.relabelled) == (1, 1)
    return derivation.load(project, project)


def is_learned_as_itself(pair, correction, vocabulary):
    names = names_of(pair, vocabulary)
    changed = [o for o in correction.outcomes if o.change is RegionChange.RELABELLED]
    assert [(o.before.label, o.after.label) for o in changed] == [pair]
    truth = true_parts(correction)
    masks = {part.label: part.mask for part in truth}
    assert [part.label for part in truth] == names
    assert np.array_equal(masks[names[0]], LEFT)
    assert np.array_equal(masks[names[1]], RIGHT)
    taught = region_targets(correction, truth)
    assert [one.region.label for one in taught] == names
    assert len(training_targets(correction)) == 2
    codes = cell_codes(truth, sorted(names), 20)
    assert set(codes.unique().tolist()) == {0, 1, 2}


def is_exported_as_itself(pair, correction, folder):
    write_coco(folder / "coco.json", [correction], on_progress=lambda _: None)
    write_records(folder / "records", [correction], lambda _: GROUP, on_progress=lambda _: None)
    files = [folder / "coco.json", *(folder / "records").glob("*annotation*.json")]
    assert len(files) == 2
    for file in files:
        coco = json.loads(file.read_text())
        named = {one["id"]: one["name"] for one in coco["categories"]}
        drawn_as = [named[one["category_id"]] for one in coco["annotations"]]
        assert [drawn_as.count(label) for label in pair] == [1, 1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_labels_of_a_config_are_two_labels_everywhere(
    script: str, repository, tokenizer, tmp_path: Path
) -> None:
    number = list(SCRIPTS).index(script) * EACH
    for n, pair in enumerate(pairs(script), start=1):
        schema = parse_label_config(config((*pair, "other")))
        vocabulary = vocabulary_in(schema, ())
        assert vocabulary is not None
        assert vocabulary.labels == (*pair, "other")
        try:
            is_predicted_as_itself(pair, schema, vocabulary)
            is_said_as_itself(pair, vocabulary, tokenizer)
            is_clicked_as_itself(pair, vocabulary)
            is_asked_for_as_itself(pair, vocabulary)
            correction = corrected(pair, number + n, repository)
            is_learned_as_itself(pair, correction, vocabulary)
            (tmp_path / str(n)).mkdir()
            is_exported_as_itself(pair, correction, tmp_path / str(n))
        except Exception as error:
            error.add_note(f"labels: {pair!r}")
            raise
