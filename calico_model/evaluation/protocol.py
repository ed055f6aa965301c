"""Looks at labeled groups with a predictor and says how good it is.

Owns what a predictor is asked: for its own answer always; on request for its masks of the true
answer, for the likelihood of five choices, and for the same group asked differently. What is
counted and how is in ledger.py and the modules it names. Does not know files, clocks or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from calico_model.errors import CalicoError, InvalidConfigError, InvalidRecordError
from calico_model.evaluation import answers, consistency, quiz
from calico_model.evaluation.choices import Taxonomy
from calico_model.evaluation.ledger import Ledger
from calico_model.evaluation.outcome import SS_BACKEND, SUBTASKS, Report
from calico_model.evaluation.worst import WorstCases
from calico_model.prompts import QUESTIONS
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, Likelihood, RegionKind
from calico_model.vocabulary import Vocabulary

_T = TypeVar("_T")
Answered = tuple[quiz.Question, list[Likelihood]]
"""A five-choice question and how likely each choice is."""

WORDINGS = min(len(wordings) for wordings in QUESTIONS.values())


class Predictor(Protocol):
    """Whatever can be evaluated; the shape of calico_model.predictor without its torch."""

    @property
    def version(self) -> str:
        """Names the weights."""

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Finds the regions of a group."""


@runtime_checkable
class Rewordable(Protocol):
    """A predictor that can be asked in other words."""

    def predict_reworded(self, group: ImageGroup, wording: int) -> GroupPrediction:
        """Finds the regions of a group, asked in the given one of the known wordings."""


@runtime_checkable
class Forcible(Protocol):
    """A predictor that can be made to say an answer, and to draw what it says."""

    def predict_forced(
        self, group: ImageGroup, answers: Mapping[RegionKind, str]
    ) -> GroupPrediction:
        """Draws the masks of given answers, empty ones included, in answer order."""


@runtime_checkable
class Judge(Protocol):
    """A predictor that can tell how likely it finds an answer."""

    def likelihoods(
        self, group: ImageGroup, kind: RegionKind, answers: Sequence[str]
    ) -> list[Likelihood]:
        """Returns the likelihood of each answer to one question about a group."""


@dataclass(frozen=True)
class Extras:
    """What to ask beside the three questions, and whom; each costs more predictions.

    Attributes:
        vocabulary: closed label set predictions are put into, for the vocabulary block.
        forcible: draws the masks of the true answers (Partonomy's teacher and strict).
        judge: answers five-choice questions.
        taxonomy: where their wrong answers come from.
        rewordable: is asked in other words and with the images in another order.
        consistency: how many groups, the first ones, it is asked about.
    """

    vocabulary: Vocabulary | None = None
    forcible: Forcible | None = None
    judge: Judge | None = None
    taxonomy: Taxonomy = field(default_factory=Taxonomy)
    rewordable: Rewordable | None = None
    consistency: int = 0


def ask_also(
    predictor: Predictor,
    *,
    vocabulary: Vocabulary | None = None,
    forced: bool = False,
    taxonomy: Taxonomy | None = None,
    consistency: int = 0,
) -> Extras:
    """Plans what else to ask of a predictor.

    Args:
        predictor: what is evaluated.
        vocabulary: closed label set, or None.
        forced: whether to ask for the masks of the true answers.
        taxonomy: of five-choice questions, None to ask none.
        consistency: how many groups to ask differently.

    Raises:
        InvalidConfigError: the predictor cannot be asked that.
    """

    def refuse(what: str) -> InvalidConfigError:
        return InvalidConfigError(f"{predictor.version}: this predictor cannot {what}")

    if forced and not isinstance(predictor, Forcible):
        raise refuse("draw given answers (teacher and strict)")
    if taxonomy is not None and not isinstance(predictor, Judge):
        raise refuse("tell how likely an answer is (five choices)")
    if consistency and not isinstance(predictor, Rewordable):
        raise refuse("be asked in other words (consistency)")
    return Extras(
        vocabulary=vocabulary,
        forcible=predictor if forced and isinstance(predictor, Forcible) else None,
        judge=predictor if taxonomy is not None and isinstance(predictor, Judge) else None,
        taxonomy=taxonomy or Taxonomy(),
        rewordable=predictor if consistency and isinstance(predictor, Rewordable) else None,
        consistency=consistency,
    )


NOTHING_ELSE = Extras()


def evaluate(
    predictor: Predictor,
    groups: Iterable[LabeledGroup],
    *,
    extras: Extras = NOTHING_ELSE,
    resamples: int = 1000,
    seed: int = 0,
    keep_worst: int = 6,
    on_group: Callable[[int], None] = lambda done: None,
) -> Report:
    """Predicts every group and scores what comes back.

    Args:
        predictor: what is evaluated.
        groups: read once, one at a time, so a lazy reader keeps memory flat.
        extras: what else to ask.
        resamples: bootstrap resamples of groups.
        seed: of the bootstrap and of wrong answers.
        keep_worst: how many of the worst groups to keep for pictures.
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
    predictor: Predictor,
    index: int,
    labeled: LabeledGroup,
    extras: Extras,
    seed: int,
    ledger: Ledger,
) -> None:
    """Asks everything about one group."""
    group, nothing = labeled.group, GroupPrediction((), predictor.version)

    def ask(question: Callable[[], _T], otherwise: _T) -> _T:
        """A group the model refuses is scored as an empty answer, and named."""
        try:
            return question()
        except CalicoError as error:
            ledger.warnings.append(f"group {index}: no prediction, scored as empty ({error})")
            return otherwise

    own = ask(partial(predictor.predict, group), nothing)
    forced = None
    if extras.forcible is not None:
        truth = answers.true_answers(labeled)
        forced = ask(partial(extras.forcible.predict_forced, group, truth), nothing)
    ledger.add(index, labeled, own, forced)
    if extras.judge is not None:
        rng = np.random.default_rng((seed, index))
        answer = partial(_answer_quiz, extras.judge, labeled, extras.taxonomy, rng)
        ledger.add_choices(index, ask(answer, []))
    if index < extras.consistency and extras.rewordable is not None:
        for way, other in _ask_differently(extras.rewordable, group, ask, nothing):
            ledger.add_variant(index, way, labeled, (own, other))


def _answer_quiz(
    judge: Judge, labeled: LabeledGroup, taxonomy: Taxonomy, rng: np.random.Generator
) -> list[Answered]:
    return [
        (question, judge.likelihoods(labeled.group, question.kind, question.choices))
        for question in quiz.draw_questions(labeled, taxonomy, rng)
    ]


def _ask_differently(
    predictor: Rewordable,
    group: ImageGroup,
    ask: Callable[[Callable[[], GroupPrediction], GroupPrediction], GroupPrediction],
    nothing: GroupPrediction,
) -> Iterator[tuple[str, GroupPrediction]]:
    """Every other wording, and the images in reverse."""
    for wording in range(1, WORDINGS):
        yield "wording", ask(partial(predictor.predict_reworded, group, wording), nothing)
    if len(group) > 1:
        order = tuple(reversed(range(len(group))))
        turned = consistency.reorder(group, order)
        other = ask(partial(predictor.predict_reworded, turned, 0), nothing)
        yield "order", consistency.restore(other, order)


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
