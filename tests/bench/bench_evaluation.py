"""Times the scorer alone: groups with made-up predictions, no model.

Regime: one process, warm, images drawn beforehand; predictions are the truth, moved and speckled, a
fifth of it misnamed and a tenth missing. Processor time, so other work on the machine does not
show. Run: `.venv/bin/python -m tests.bench.bench_evaluation`.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np

from calico_model.data.synthetic import SceneSplit, Stream, draw_group, group_rng, labeled_group
from calico_model.evaluation.protocol import evaluate
from calico_model.types import GroupPrediction, ImageGroup, LabeledGroup, PartMask


class Careless:
    """Knows the truth and spoils it."""

    version = "careless"

    def __init__(self, groups: list[LabeledGroup]) -> None:
        self.truth = {id(labeled.group): labeled.parts for labeled in groups}
        self.rng = np.random.default_rng(0)

    def predict(self, group: ImageGroup) -> GroupPrediction:
        """Answers with spoilt truth."""
        kept = [part for part in self.truth[id(group)] if self.rng.random() > 0.1]
        return GroupPrediction(tuple(map(self._spoil, kept)), self.version)

    def _spoil(self, part: PartMask) -> PartMask:
        reach = max(1, part.mask.shape[0] // 40)
        mask = np.roll(part.mask, self.rng.integers(-reach, reach + 1), axis=0)
        label = part.label if self.rng.random() > 0.2 else "thing"
        return replace(part, mask=mask, label=label, score=float(self.rng.random()))


def main(groups: int = 60) -> None:
    """Prints processor seconds for several image sizes and group sizes."""
    rows = []
    for size_px, images in ((256, 2), (256, 6), (1024, 2), (2048, 2)):
        count = groups if size_px == 256 else groups // 6
        drawn = [
            labeled_group(
                draw_group(
                    group_rng(Stream.EVALUATION, 7, index),
                    split=SceneSplit.SEEN,
                    group_size=images,
                    size_px=size_px,
                )
            )
            for index in range(count)
        ]
        predictor = Careless(drawn)
        started = time.process_time()
        evaluate(predictor, drawn, resamples=1)
        scoring = (time.process_time() - started) / count
        started = time.process_time()
        evaluate(predictor, drawn, resamples=1000)
        everything = time.process_time() - started
        row = {
            "size_px": size_px,
            "images": images,
            "groups": count,
            "score_s_per_group": round(scoring, 4),
            "bootstrap_s": round(max(0.0, everything - scoring * count), 2),
        }
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
