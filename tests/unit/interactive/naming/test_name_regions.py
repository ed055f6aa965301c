"""Naming regions of a closed set: no label from outside, classifiers that know nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calico_model.errors import InvalidMaskError
from calico_model.inference.images import to_pixels
from calico_model.inference.pairwise import GeneratedAnswer, GroupQuestion
from calico_model.interactive.naming.closed_set import IS_INSIDE, ClosedSet, Fusion, Outline, fuse
from calico_model.interactive.naming.descriptors import describe_outlines
from calico_model.interactive.naming.name_regions import name_regions, score_by_head
from calico_model.interactive.naming.prototypes import Prototypes
from calico_model.modeling.dense_head import WIDTH, DenseNames, DenseRows
from calico_model.modeling.features import ImageFeatures
from calico_model.modeling.model import Calico
from calico_model.modeling.region_head import describe_regions
from calico_model.prompts import parse_answer
from calico_model.tokenizer import Tokenizer
from calico_model.types import GroupPrediction, RegionKind
from calico_model.vocabulary import Vocabulary, normalise

SIZES = ((40, 60), (50, 30))
LABELS = ("Wheel", "leg", "Zyxqk", "door handle")
WORDS = ("wheel", "legs", "Front Door", "zyx", "über", "a b c", "SEAT", "t", "42", "left_wing")


@pytest.fixture
def features(model: Calico, images: list[np.ndarray]) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(to_pixels(images, model.config))


def box(image: int, top: int, left: int, side: int = 12, **said: object) -> Outline:
    mask = np.zeros(SIZES[image], dtype=bool)
    mask[top : top + side, left : left + side] = True
    return Outline(image, mask, **said)  # type: ignore[arg-type]


def said(text: str) -> GroupPrediction:
    kind = RegionKind.COMMON_PART
    generated = GeneratedAnswer(GroupQuestion(kind, (0, 1)), text, parse_answer(kind, text), ())
    return GroupPrediction((), "v", {kind.value: text}, generated.phrases)


def test_without_evidence_every_label_is_as_likely(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    closed = ClosedSet(Vocabulary(LABELS))
    for add_ons in ((), ("region_head",)):
        model.add_on(add_ons)
        (named,) = name_regions(model, tokenizer, features, [box(0, 5, 5)], closed)
        assert named.chance == pytest.approx(1 / len(LABELS))
        assert named.label is None


def test_an_accepted_region_is_recognised(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    outlines = [box(0, 2, 2), box(1, 20, 6), box(0, 20, 30)]
    accepted = Prototypes()
    for label, session in zip(LABELS, describe_outlines(model, features, outlines), strict=False):
        accepted = accepted.add(label, session)
    closed = ClosedSet(Vocabulary(LABELS), accepted, Fusion(trusted_after=0.0))
    named = name_regions(model, tokenizer, features, outlines, closed)
    assert [one.ranked[0][0] for one in named] == list(LABELS[:3])


def test_one_thing_in_several_images_has_one_name(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    outlines = [box(0, 2, 2, same="x"), box(1, 20, 6, same="x"), box(0, 20, 30)]
    accepted = Prototypes()
    for label, session in zip(LABELS, describe_outlines(model, features, outlines), strict=False):
        accepted = accepted.add(label, session)
    closed = ClosedSet(Vocabulary(LABELS), accepted)
    first, second, _ = name_regions(model, tokenizer, features, outlines, closed)
    assert first == second


def test_descriptions_hold_for_every_adapter(model: Calico, features: ImageFeatures) -> None:
    outlines = [box(0, 2, 2), box(1, 20, 6)]
    before = describe_outlines(model, features, outlines)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("cem.", "cams.", "query_tokens")) or ".lora_" in name:
                parameter.add_(0.5)
    assert np.array_equal(before, describe_outlines(model, features, outlines))
    assert np.linalg.norm(before, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_an_empty_mask_is_refused(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    empty = Outline(0, np.zeros(SIZES[0], dtype=bool))
    with pytest.raises(InvalidMaskError, match=r"outlines\[0\]"):
        name_regions(model, tokenizer, features, [empty], ClosedSet(Vocabulary(LABELS)))


def test_the_head_gives_spelled_names_an_even_share(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    model.add_on(("region_head",))
    assert model.region_head is not None
    torch.manual_seed(0)
    torch.nn.init.normal_(model.region_head.word.weight)
    vocabulary = Vocabulary(("leg", "wheel", "zyxqk"))
    image, shares = torch.tensor([0]), torch.zeros(1, 32, 32)
    shares[:, 4:12, 4:12] = 1.0
    blocks = describe_regions(features, image, shares)
    chances = score_by_head(model, tokenizer, blocks, vocabulary).exp()[0]
    assert chances.sum() == pytest.approx(1.0, abs=1e-5)
    assert chances[2] == pytest.approx(1 / 3, abs=1e-5)
    assert chances[0] != pytest.approx(1 / 3, abs=1e-3)


def test_no_label_from_outside_the_set_ever_comes_out(
    model: Calico, tokenizer: Tokenizer, features: ImageFeatures
) -> None:
    """Random sets, aliases, outlines, memories and answers; every label given is of the set."""
    rng = np.random.default_rng(11)
    model.add_on(("region_head",))
    assert model.region_head is not None
    torch.nn.init.normal_(model.region_head.word.weight)
    accepted = Prototypes()
    answers = (None, said("Shared parts: <p> the robot </p> [SEG] (IMAGE1)."), said("nonsense ."))
    distinct = {normalise(word): word for word in WORDS}
    for trial in range(12):
        count = int(rng.integers(1, len(distinct)))
        labels = tuple(map(str, rng.permutation(list(distinct.values()))[:count]))
        closed = ClosedSet(
            Vocabulary(labels, {f"alias {n}": name for n, name in enumerate(labels)}),
            accepted,
            least=float(rng.choice([0.0, 0.4])),
        )
        outlines = [
            box(0, int(rng.integers(38)), int(rng.integers(58)), int(rng.integers(1, 20)))
            for _ in range(20)
        ]
        named = name_regions(
            model, tokenizer, features, outlines, closed, answers[trial % len(answers)]
        )
        for one in named:
            assert one.label is None or one.label in labels
            assert {label for label, _ in one.ranked} <= set(labels)
            is_unsure = one.chance < closed.least or one.inside < IS_INSIDE
            assert (one.label is None) == is_unsure
        session = describe_outlines(model, features, outlines[:1])[0]
        accepted = accepted.add(str(rng.choice([*WORDS, "outsider"])), session)


def test_a_uniform_classifier_changes_nothing() -> None:
    rows = np.log(np.random.default_rng(1).dirichlet(np.ones(4), size=3))
    uniform = np.full((3, 4), -np.log(4))
    closed = ClosedSet(Vocabulary(LABELS), least=0.0)
    alone = fuse(closed, rows, uniform, uniform)
    for one, row in zip(alone, rows, strict=True):
        assert one.chance == pytest.approx(float(np.exp(row).max()))
        assert one.label == LABELS[int(row.argmax())]


def test_cells_that_learned_a_name_say_it(
    photo_model: Calico,
    tokenizer: Tokenizer,
    images: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = photo_model
    with torch.no_grad():
        features = model.encode(to_pixels(images, model.config))
    model.add_on(["dense_head"])
    head = model.dense_head
    assert head is not None
    names = DenseNames(("leg", "wheel"), ("door handle",))
    parts, objects = torch.zeros(2, 3, 32, 32), torch.zeros(2, 2, 32, 32)
    parts[:, 2], objects[:, 1] = 5.0, 5.0  # wheels everywhere, on a handle
    monkeypatch.setattr(head, "class_logits", lambda _: (parts, objects))
    closed = ClosedSet(Vocabulary(LABELS))

    def names_of(trust: float, closed: ClosedSet = closed) -> list[str | None]:
        head.activate(DenseRows(names, torch.zeros(names.rows, WIDTH), torch.zeros(2, 2), trust))
        outlines = [
            box(0, 5, 5, kind=RegionKind.UNIQUE_PART),
            box(1, 5, 5, kind=RegionKind.COMMON_OBJECT),
        ]
        return [one.label for one in name_regions(model, tokenizer, features, outlines, closed)]

    assert names_of(1.0) == ["Wheel", "door handle"]
    assert names_of(0.0) == [None, None]
    # A label that was renamed since has the learned name as another word.
    labels = tuple("Tyre" if label == "Wheel" else label for label in LABELS)
    renamed = ClosedSet(Vocabulary(labels, {"Wheel": "Tyre"}))
    assert names_of(1.0, renamed) == ["Tyre", "door handle"]
    # What nobody said the kind of may be either.
    head.activate(DenseRows(names, torch.zeros(names.rows, WIDTH), torch.zeros(2, 2), 1.0))
    (open_one,) = name_regions(model, tokenizer, features, [box(0, 5, 5)], closed)
    assert {label for label, _ in open_one.ranked[:2]} == {"Wheel", "door handle"}
