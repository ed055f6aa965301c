"""Clicks and boxes of one job: outlines what they mean, and what is alike on the other images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from backend.errors import StoppedError
from backend.label_studio.label_set import vocabulary_in
from backend.served_model import ServedModel
from backend.serving.group_predictions import GroupPredictor
from backend.serving.interactive import InteractiveSegmenter
from backend.serving.jobs import PredictionJob, PredictionResult, Render, content_key
from backend.serving.metrics import Metrics
from backend.serving.naming import ProjectNames, closed_set_of, name_unnamed
from backend.serving.notices import absent_notes
from backend.serving.source_pool import SourcePool
from backend.serving.source_trust import SourceTrustReader, trust_in
from calico_model.types import ImageGroup

_log = logging.getLogger(__name__)


class ClickAnswers:
    """Answers clicks and boxes; most arguments are those of `TaskPredictor`.

    Args:
        groups: what the model predicted for the images.
        render: turns suggestions into the bytes of their regions.
        metrics: count tasks and time their stages.
        names: puts regions into closed label sets, or None.
        sources: segmenters asked beside the model, or None.
        trust: which of them is believed, or None.
        most_steps: masks after a click that are remembered.
        budget_s: longest the clicks of one request hold the model.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        groups: GroupPredictor,
        render: Render,
        metrics: Metrics,
        *,
        names: ProjectNames | None,
        sources: SourcePool | None,
        trust: SourceTrustReader | None,
        most_steps: int,
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._groups, self._render, self._metrics = groups, render, metrics
        self._names, self._sources, self._trust = names, sources, trust
        self._segmenter = InteractiveSegmenter(sources, most_steps=most_steps)
        self._budget_s, self._clock = budget_s, clock

    def answer(
        self,
        job: PredictionJob,
        group: ImageGroup,
        model: ServedModel,
        is_wanted: Callable[[], bool],
    ) -> PredictionResult:
        """Returns the suggestions for the clicks and boxes of one job.

        Args:
            job: has prompts.
            group: the images of its task.
            model: of the job's version.
            is_wanted: whether the result is useful to anybody.

        Raises:
            StoppedError: nobody waits for them any more.
        """
        clicked = {prompt.image_index for prompt in job.prompts}
        group_prediction = self._groups.predictions.find(
            content_key(group), model.version, images=clicked
        )
        if group_prediction is None and self._groups.predictions.are_shared:
            # Another server may answer the next click: both must build on the same prediction.
            group_prediction = self._groups.predict(group, model)
        with self._groups.lock, self._metrics.stage("assist"):
            until = self._clock() + self._budget_s

            def has_time() -> bool:
                if not is_wanted():
                    raise StoppedError("nobody waits for these clicks any more")
                return self._clock() < until

            has_time()  # raises where nobody waits any more
            vocabulary = vocabulary_in(job.schema, job.task.labels)
            trust = trust_in(self._sources, self._trust, job.task, vocabulary)
            suggestions = self._segmenter.suggest(
                group,
                job.prompts,
                job.canvas,
                model,
                group_prediction,
                has_time,
                vocabulary,
                trust,
            )
            if (closed := closed_set_of(self._names, job)) is not None:
                suggestions = suggestions.with_parts(
                    name_unnamed(suggestions.prediction.parts, group, model, closed)
                )
            # What is alike elsewhere comes behind them.
            outlined = len(suggestions.prediction.parts)
            suggestions = suggestions.propagated(
                group,
                model,
                group_prediction,
                canvas=job.canvas,
                has_time=has_time,
                vocabulary=vocabulary,
                is_series=job.task.is_series,
                sources=self._sources,
                trust=trust,
            )
            if closed is None:
                suggestions = suggestions.with_predicted_names()
            if not has_time():
                about = {"task": job.task.id, "prompts": len(job.prompts)}
                _log.warning("clicks left out", extra={"event": "clicks_left_out", **about})
        with self._metrics.stage("render"):
            parts = suggestions.prediction.parts
            notes = absent_notes(
                [part.label for part in parts[:outlined]],
                suggestions.absent,
                {part.image_index for part in parts[outlined:]},
                is_series=job.task.is_series,
            )
            job = replace(job, ids=suggestions.ids, notes=notes)
            regions, score = self._render(suggestions.prediction, job, group)
        self._metrics.tasks.labels("assisted").inc()
        return PredictionResult(regions, score, model.version, absent=suggestions.absent)
