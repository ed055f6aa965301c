"""Collects the tallies of an evaluation group by group, and closes them into a report.

The masks of one group are cropped, scored by every block, and forgotten. Every block returns
tallies (part, whole), so that pooling and intervals are the same for all of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from calico_model.evaluation import (
    annotator,
    bootstrap,
    naming,
    partonomy,
    quiz,
    structure,
)
from calico_model.evaluation.choices import choose
from calico_model.evaluation.closing import (
    Outcomes,
    calico_tables,
    close_blocks,
    close_sizes,
    score_labels,
)
from calico_model.evaluation.cosegmentation import Cosegmentation, Entry
from calico_model.evaluation.metrics import STRICT, Tally
from calico_model.evaluation.outcome import (
    EDIT_RATIO,
    OBJECT_ACCURACY,
    SUBTASKS,
    AskedQuestion,
    EvaluationReport,
    MetricPath,
    WorstCase,
    WorstCases,
)
from calico_model.evaluation.regions import (
    CroppedRegion,
    as_regions,
    cut,
    merge_by_label,
    usable_regions,
)
from calico_model.evaluation.units import strict_unit
from calico_model.prompts import parse_answer
from calico_model.types import GroupPrediction, LabeledGroup, Likelihood, RegionKind
from calico_model.vocabulary import Vocabulary


@dataclass(eq=False)
class Ledger:
    """Tallies of all groups so far.

    Attributes:
        worst: the worst groups, kept for pictures.
        vocabulary: closed label set that predictions are translated into, or None.
        sizes: number of images of each group.
        calico: units of the three subtasks.
        parts: tallies of `structure.part_tallies`, by metric.
        tallies: tallies of the blocks beside the subtasks, by metric.
        samples: annotator metric -> (group, value), of which the median is reported.
        outcomes: of every proposal, for calibration.
        predicted_names, true_names: names of all regions, for the vocabulary block.
        foreign: true labels that the vocabulary lacks; that block leaves their regions out.
        questions: the five-choice questions asked.
        answers: counts of answers, empty answers, malformed answers and skipped regions.
        warnings: for the reader of the report.
        digest: sha256 over pixels and truth.
    """

    worst: WorstCases
    vocabulary: Vocabulary | None = None
    sizes: list[int] = field(default_factory=list)
    calico: Cosegmentation = field(default_factory=Cosegmentation)
    parts: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    tallies: dict[MetricPath, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    samples: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    outcomes: Outcomes = field(default_factory=list)
    predicted_names: list[tuple[int, str]] = field(default_factory=list)
    true_names: set[str] = field(default_factory=set)
    foreign: Counter[str] = field(default_factory=Counter)
    questions: list[AskedQuestion] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(
        self,
        index: int,
        labeled: LabeledGroup,
        prediction: GroupPrediction,
        forced: GroupPrediction | None = None,
    ) -> None:
        """Scores one group.

        Args:
            index: its position, counted from 0 without gaps.
            labeled: images and truth.
            prediction: the model's own answer.
            forced: the model's masks for the true answers, if they were asked for.
        """
        predicted = self._take_in(index, labeled, prediction)
        truth = as_regions(labeled.parts)
        self.sizes.append(len(labeled.group))
        _fingerprint(self.digest, labeled)
        miou = self._add_calico(index, labeled, prediction, predicted, truth)
        for name, tally in structure.part_tallies(predicted, truth).items():
            self.parts[name].append((index, *tally))
        drawn = self._take_in(index, labeled, forced) if forced is not None else None
        self._add_partonomy(index, labeled, prediction.answers, predicted, truth, drawn)
        self._add_names(index, predicted, truth)
        self._add_composition(index, labeled, predicted, truth)
        for count in annotator.COUNTS:
            self._count(("annotator", count), index, (0.0, 1.0))
        self.worst.offer(WorstCase(index, 100 * miou, labeled, prediction))

    def add_variant(
        self, index: int, way: str, labeled: LabeledGroup, pair: tuple[GroupPrediction, ...]
    ) -> None:
        """Compares a group's answer with its answer to another wording or image order.

        Args:
            index: of the group.
            way: "wording" or "order".
            labeled: images and truth.
            pair: both answers, with the images in the same order.
        """
        first, _ = usable_regions(labeled, pair[0])  # counted before, by `add`
        second = self._take_in(index, labeled, pair[1])
        compared = structure.compare_answers(first, second, len(labeled.group))
        for name, tally in compared.items():
            self._count(("consistency", way, name), index, tally)

    def add_choices(
        self, index: int, answered: Sequence[tuple[quiz.QuizQuestion, Sequence[Likelihood]]]
    ) -> None:
        """Scores the five-choice questions of a group, with the likelihood of every choice."""
        right: dict[str, float] = {}
        for question, likelihoods in answered:
            self.questions.append(
                AskedQuestion(
                    index,
                    question.task,
                    question.choices,
                    question.right,
                    choose(likelihoods, "sum"),
                )
            )
            for name, tally in quiz.score_question(question, likelihoods).items():
                self._count(("partonomy", question.task, "choices", name), index, tally)
                if name == "accuracy_sum":
                    right[question.task] = tally[0]
        if {"whole2part", "part2whole"} <= right.keys():
            gain = right["part2whole"] - right["whole2part"]
            self._count(("partonomy", "part2whole", "choices", quiz.GAIN), index, (gain, 1.0))

    def close(self, version: str, resamples: int, seed: int) -> EvaluationReport:
        """Computes all metrics with intervals.

        Args:
            version: of the model.
            resamples: bootstrap resamples of groups.
            seed: of the bootstrap.
        """
        counts = bootstrap.draw_counts(len(self.sizes), resamples, seed)
        tasks, mean = calico_tables(self.calico, range(len(self.sizes)), counts)
        self._settle_vocabulary()
        metrics, bins = close_blocks(self.tallies, self.samples, self.outcomes, counts)
        return EvaluationReport(
            model_version=version,
            data_sha256=self.digest.hexdigest(),
            groups=len(self.sizes),
            images=sum(self.sizes),
            tasks={
                task: {
                    mode: {name: value.metric() for name, value in table.items()}
                    for mode, table in modes.items()
                }
                for task, modes in tasks.items()
            },
            mean={
                mode: {name: value.metric() for name, value in table.items()}
                for mode, table in mean.items()
            },
            resampled=mean,
            parts={
                name: bootstrap.ratio(entries, counts).metric()
                for name, entries in self.parts.items()
            },
            blocks=metrics,
            reliability=bins,
            group_sizes=close_sizes(self.calico, self.sizes, (tasks, mean), resamples, seed),
            oracle={str(kind): self.calico.oracle(kind) for kind in SUBTASKS},
            labels={str(kind): score_labels(self.calico.strict[kind]) for kind in SUBTASKS},
            answers={**self.answers},
            worst=self.worst.ranked,
            questions=tuple(self.questions),
            warnings=tuple(self.warnings),
            seed=seed,
            resamples=resamples,
        )

    def _take_in(
        self, index: int, labeled: LabeledGroup, prediction: GroupPrediction
    ) -> list[CroppedRegion]:
        """Drops regions without known truth, and misplaced regions with a warning."""
        regions, misplaced = usable_regions(labeled, prediction)
        self.answers["skipped_regions"] += len(misplaced)
        self.warnings += [f"group {index}: skipped {what}" for what in misplaced]
        return regions

    def _add_calico(
        self,
        index: int,
        labeled: LabeledGroup,
        prediction: GroupPrediction,
        predicted: Sequence[CroppedRegion],
        truth: Sequence[CroppedRegion],
    ) -> float:
        """Adds the three subtasks and the effort of correcting them; returns the strict mIoU."""
        quality: list[float] = []
        for kind in (kind for kind in SUBTASKS if kind in labeled.known):
            ours = [region for region in predicted if region.kind is kind]
            theirs = [region for region in truth if region.kind is kind]
            self.answers.update(_judge_answer(kind, bool(ours), bool(theirs), prediction))
            self.calico.add_group(index, kind, ours, theirs, len(labeled.group))
            for image in range(len(labeled.group)):
                proposed = [region for region in ours if region.image_index == image]
                real = [region for region in theirs if region.image_index == image]
                unit = self.calico.add_image(index, kind, proposed, real)
                if unit is not None:
                    quality.append(STRICT["mIoU"](unit)[0])
                    self._add_effort(
                        index, annotator.measure_effort(unit, merge_by_label(proposed), real)
                    )
        return float(np.mean(quality)) if quality else 1.0

    def _add_effort(self, index: int, effort: annotator.CorrectionEffort) -> None:
        for name, tally in effort.tallies.items():
            self._count(("annotator", name), index, tally)
        self.samples[EDIT_RATIO] += [(index, ratio) for ratio in effort.edit_ratios]
        for name, clicks in effort.clicks.items():
            self._count(("annotator", name), index, (sum(clicks), len(clicks)))
        self.outcomes += [(index, score, right) for score, right in effort.outcomes]

    def _add_partonomy(
        self,
        index: int,
        labeled: LabeledGroup,
        answers: Mapping[str, str],
        predicted: Sequence[CroppedRegion],
        truth: Sequence[CroppedRegion],
        forced: Sequence[CroppedRegion] | None,
    ) -> None:
        if not labeled.known.issuperset(structure.PART_KINDS):
            return
        modes = dict.fromkeys(partonomy.OWN_MODES, predicted)
        if forced is not None:
            modes |= dict.fromkeys(partonomy.FORCED_MODES, forced)
        for task, image, true_parts in partonomy.questions(truth, len(labeled.group)):
            for mode, regions in modes.items():
                answer = partonomy.answer_of(regions, task, image)
                terms = partonomy.judge(mode, answer, true_parts)
                for name, tally in partonomy.mask_tallies(terms).items():
                    self._count(("partonomy", task, mode, name), index, tally)
            own_answer = partonomy.answer_of(predicted, task, image)
            for name, tally in partonomy.text_tallies(own_answer, true_parts).items():
                self._count(("partonomy", task, "text", name), index, tally)
        named = partonomy.object_tally(labeled, predicted, answers)
        self._count(OBJECT_ACCURACY, index, named)

    def _add_names(
        self, index: int, predicted: Sequence[CroppedRegion], truth: Sequence[CroppedRegion]
    ) -> None:
        known, unknown = naming.translate(predicted, self.vocabulary)
        theirs, foreign = naming.translate(truth, self.vocabulary)
        self.foreign.update(region.name for region in foreign)
        if self.vocabulary is not None:
            share = (len(unknown), len(predicted))
            self._count(("vocabulary", naming.OUT_OF_VOCABULARY), index, share)
        self.predicted_names += [(index, region.name) for region in predicted]
        self.true_names |= {region.name for region in truth}
        self._count(("vocabulary", "pixel_mIoU"), index, naming.pixel_miou(known, theirs))
        for image in range(self.sizes[index]):
            ours = merge_by_label([r for r in known if r.image_index == image])
            real = merge_by_label([r for r in theirs if r.image_index == image])
            if not ours and not real:
                continue
            unit = strict_unit(index, ours, real)
            for name in naming.QUALITY:
                self._count(("vocabulary", name), index, STRICT[name](unit))
            for name, tally in naming.top_tallies(unit).items():
                self._count(("vocabulary", name), index, tally)

    def _settle_vocabulary(self) -> None:
        """Without a vocabulary, all true labels of the data set are the closed label set."""
        if self.vocabulary is None:
            self.tallies["vocabulary", naming.OUT_OF_VOCABULARY] = [
                (index, float(name not in self.true_names), 1.0)
                for index, name in self.predicted_names
            ]

    def _add_composition(
        self,
        index: int,
        labeled: LabeledGroup,
        predicted: Sequence[CroppedRegion],
        truth: Sequence[CroppedRegion],
    ) -> None:
        objects = {compared.image_index: cut(compared.mask) for compared in labeled.objects}
        for image in range(len(labeled.group)):
            tallies = structure.composition_tallies(
                [region for region in predicted if region.image_index == image],
                [region for region in truth if region.image_index == image],
                objects.get(image),
            )
            for name, values in tallies.items():
                for tally in values:
                    self._count(("structure", name), index, tally)

    def _count(self, path: MetricPath, index: int, tally: Tally) -> None:
        self.tallies[path].append((index, *tally))


def _judge_answer(
    kind: RegionKind, is_answered: bool, has_truth: bool, prediction: GroupPrediction
) -> Counter[str]:
    """Counts one answer: rightly or wrongly empty, and malformed or not."""
    text = prediction.answers.get(kind)
    return Counter(
        questions=1,
        skipped_regions=0,
        empty_wrongly=int(has_truth and not is_answered),
        empty_rightly=int(not has_truth and not is_answered),
        answered_nothing_to_find=int(is_answered and not has_truth),
        malformed=int(text is not None and parse_answer(kind, text).malformed > 0),
    )


def _fingerprint(digest: hashlib._Hash, labeled: LabeledGroup) -> None:
    """Adds the pixels and the whole truth of a group to a digest."""
    for image in labeled.group.images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    digest.update(repr(sorted(labeled.known)).encode())
    for part in labeled.parts:
        named = (part.image_index, str(part.kind), part.label, part.object_label, part.part_id)
        digest.update(repr(named).encode() + np.packbits(part.mask).tobytes())
    for compared in labeled.objects:
        shown = (compared.image_index, compared.label)
        digest.update(repr(shown).encode() + np.packbits(compared.mask).tobytes())
