"""Evaluates a predictor on labeled groups.

Defines what a predictor is asked: always for its own answer; on request for its masks of the true
answer, for the likelihood of five choices, and for the same group in other words or another order.
The scoring is in ledger.py and the modules it imports. Does not know files, clocks or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from calico_model.errors import CalicoError, InvalidConfigError, InvalidRecordError
from calico_model.evaluation import quiz, structure
from calico_model.evaluation.choices import Taxonomy
from calico_model.evaluation.ledger import Ledger
from calico_model.evaluation.outcome import SS_BACKEND, SUBTASKS, EvaluationReport, WorstCases
from calico_model.prompts import QUESTIONS
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, Likelihood, RegionKind
from calico_model.vocabulary import Vocabulary

_T = TypeVar("_T")
Answered = tuple[quiz.QuizQuestion, list[Likelihood]]
"""A five-choice question and the likelihood of each choice."""

WORDINGS = min(len(wordings) for wordings in QUESTIONS.values())


class GroupPredictor(Protocol):
    """A predictor that can be evaluated: the methods of `calico_model.predictor` that this needs.

    The protocol keeps torch out of the evaluation.
    """

    @property
    def version(self) -> str:
        """Version of the weights."""

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Predicts the regions of a group."""


@runtime_checkable
class BatchPredictor(GroupPredictor, Protocol):
    """A predictor that answers several groups sooner than one after another."""

    def predict_groups(self, groups: Sequence[ImageGroup]) -> Sequence[GroupPrediction]:
        """Predicts several groups; each as `predict` does, but for rounding."""


@runtime_checkable
class SteerablePredictor(GroupPredictor, Protocol):
    """A predictor that also takes other wordings and given answers, as a loaded model does.

    Saved predictions cannot do this.
    """

    def predict_reworded(self, group: ImageGroup, wording: int) -> GroupPrediction:
        """Predicts the regions of a group, asked with wording number `wording`."""

    def predict_forced(
        self, group: ImageGroup, answers: Mapping[RegionKind, str]
    ) -> GroupPrediction:
        """Draws the masks of given answers in answer order; empty masks are kept."""

    def likelihoods(
        self, group: ImageGroup, kind: RegionKind, answers: Sequence[str]
    ) -> list[Likelihood]:
        """Returns the likelihood of each answer to one question about a group."""


@dataclass(frozen=True)
class Extras:
    """What to ask beside the three questions; each extra costs more predictions.

    Attributes:
        vocabulary: closed label set predictions are put into, for the vocabulary block.
        steerable: the predictor that the other extras ask, None where none is wanted.
        forced: ask for the masks of the true answers (Partonomy's teacher and strict).
        taxonomy: source of the wrong answers of five-choice questions; None asks none.
        consistency: how many groups, from the first, to ask in other words and with the images in
            another order.
    """

    vocabulary: Vocabulary | None = None
    steerable: SteerablePredictor | None = None
    forced: bool = False
    taxonomy: Taxonomy | None = None
    consistency: int = 0


def ask_also(
    predictor: GroupPredictor,
    *,
    vocabulary: Vocabulary | None = None,
    forced: bool = False,
    taxonomy: Taxonomy | None = None,
    consistency: int = 0,
) -> Extras:
    """Plans the extras of an evaluation.

    Args:
        predictor: what is evaluated.
        vocabulary: closed label set, or None.
        forced: whether to ask for the masks of the true answers.
        taxonomy: of five-choice questions, None to ask none.
        consistency: how many groups to ask differently.

    Raises:
        InvalidConfigError: the predictor cannot do what an extra needs.
    """
    needs = {
        "draw given answers (teacher and strict)": forced,
        "tell how likely an answer is (five choices)": taxonomy is not None,
        "be asked in other words (consistency)": consistency > 0,
    }
    wanted = [ability for ability, is_needed in needs.items() if is_needed]
    if not wanted:
        return Extras(vocabulary=vocabulary)
    if not isinstance(predictor, SteerablePredictor):
        raise InvalidConfigError(f"{predictor.version}: this predictor cannot {wanted[0]}")
    return Extras(vocabulary, predictor, forced, taxonomy, consistency)


NOTHING_ELSE = Extras()


def evaluate(
    predictor: GroupPredictor,
    groups: Iterable[LabeledGroup],
    *,
    extras: Extras = NOTHING_ELSE,
    resamples: int = 1000,
    seed: int = 0,
    keep_worst: int = 6,
    on_group: Callable[[int], None] = lambda _done: None,
) -> EvaluationReport:
    """Predicts every group and scores the predictions.

    Args:
        predictor: what is evaluated.
        groups: read once, one at a time, so a lazy reader keeps memory flat.
        extras: what else to ask.
        resamples: bootstrap resamples of groups.
        seed: of the bootstrap and of wrong answers.
        keep_worst: number of worst groups to keep for pictures.
        on_group: called with the number of finished groups after each.

    Raises:
        InvalidRecordError: there are no groups.
    """
    ledger = Ledger(WorstCases(keep_worst), extras.vocabulary)
    for index, labeled in enumerate(groups):
        _examine(predictor, index, labeled, extras, seed, ledger)
        on_group(index + 1)
    if not ledger.sizes:
        raise InvalidRecordError("groups: expected at least one labeled group, got none")
    ledger.warnings += _closing_warnings(ledger)
    return ledger.close(predictor.version, resamples, seed)


def _examine(
    predictor: GroupPredictor,
    index: int,
    labeled: LabeledGroup,
    extras: Extras,
    seed: int,
    ledger: Ledger,
) -> None:
    """Asks all questions about one group."""
    group, nothing = labeled.group, GroupPrediction((), predictor.version)

    def ask(question: Callable[[], _T], otherwise: _T) -> _T:
        """Scores a group that the model refuses as an empty answer, with a warning."""
        try:
            return question()
        except CalicoError as error:
            ledger.warnings.append(f"group {index}: no prediction, scored as empty ({error})")
            return otherwise

    prediction = ask(partial(predictor.predict, group), nothing)
    steerable, forced = extras.steerable, None
    if steerable is not None and extras.forced:
        truth = quiz.true_answers(labeled)
        forced = ask(partial(steerable.predict_forced, group, truth), nothing)
    ledger.add(index, labeled, prediction, forced)
    if steerable is None:
        return
    if extras.taxonomy is not None:
        rng = np.random.default_rng((seed, index))
        answer = partial(_answer_quiz, steerable, labeled, extras.taxonomy, rng)
        ledger.add_choices(index, ask(answer, []))
    if index < extras.consistency:
        for way, other in _ask_differently(steerable, group, ask, nothing):
            ledger.add_variant(index, way, labeled, (prediction, other))


def _answer_quiz(
    predictor: SteerablePredictor,
    labeled: LabeledGroup,
    taxonomy: Taxonomy,
    rng: np.random.Generator,
) -> list[Answered]:
    return [
        (question, predictor.likelihoods(labeled.group, question.kind, question.choices))
        for question in quiz.draw_questions(labeled, taxonomy, rng)
    ]


def _ask_differently(
    predictor: SteerablePredictor,
    group: ImageGroup,
    ask: Callable[[Callable[[], GroupPrediction], GroupPrediction], GroupPrediction],
    nothing: GroupPrediction,
) -> Iterator[tuple[str, GroupPrediction]]:
    """Yields the answer to every other wording, and the answer with the images reversed."""
    for wording in range(1, WORDINGS):
        yield "wording", ask(partial(predictor.predict_reworded, group, wording), nothing)
    if len(group) > 1:
        order = tuple(reversed(range(len(group))))
        turned = structure.reorder(group, order)
        other = ask(partial(predictor.predict_reworded, turned, 0), nothing)
        yield "order", structure.restore(other, order)


def _closing_warnings(ledger: Ledger) -> list[str]:
    notes = [
        f"ss_backend={SS_BACKEND}: Recall and SS compare spelling (hashed character 3-5-grams),"
        " the paper compares sentence embeddings",
        "SS and S-IoU compare labels through matched masks (assumed)",
    ]
    notes += [
        f"{kind}: no truth in this data, left out of the mean"
        + (" but for strict mIoU and PQ, where what was found counts 0" if extra else "")
        for kind in SUBTASKS
        if not ledger.calico.compat[kind]
        for extra in [bool(ledger.calico.strict[kind])]
    ]
    if ledger.foreign:
        names = ", ".join(repr(name) for name in sorted(ledger.foreign))
        notes.append(
            f"vocabulary: {ledger.foreign.total()} true regions left out of that block, "
            f"it has no word for {names}"
        )
    if ledger.answers["malformed"]:
        notes.append(f"{ledger.answers['malformed']} answers had tags outside the grammar")
    return notes
