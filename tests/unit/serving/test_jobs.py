"""Keys of kept answers: what an earlier release has stored is found again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionJob, answer_key
from backend.types import Region, RegionOrigin, Task
from tests.unit.label_studio.golden_files import config

# Computed when predictions began to have colours and notes, which RENDERING_VERSION 3 counts too.
STORED = {
    "a_four_images": "43cc0953883d41822a8318dd5e88a4a5e38ecc85628c71c4f047b78af0fb9512",
    "b_valuelist": "f70aa93f73266a7bc072a8d90abb5c0dcefe4d2f3feb54084d655fbc02166a64",
}


@pytest.mark.parametrize("name", sorted(STORED))
def test_keys_of_kept_answers_do_not_depend_on_the_names_of_classes(name: str) -> None:
    job = PredictionJob(Task(3, 7, ("a.png", "b.png")), parse_label_config(config(name)))
    assert answer_key(job, "c", version="v", code="x") == STORED[name]


def test_an_answer_with_a_caption_has_keys_of_its_own() -> None:
    schema = parse_label_config(config("a_four_images"))
    first, *others = schema.slots
    schemas = [
        replace(schema, slots=(replace(first, caption=caption), *others))
        for caption in (None, "caption", "text")
    ]
    jobs = [PredictionJob(Task(3, 7, ("a.png",)), variant) for variant in schemas]
    assert len({answer_key(job, "c", version="v", code="x") for job in jobs}) == 3
    assert len({job.key for job in jobs}) == 3


SPELLED = """
from dataclasses import replace
from backend.label_studio.label_config import parse_label_config
from backend.serving.jobs import PredictionJob, answer_key
from backend.types import Task
from tests.unit.label_studio.golden_files import config
schema = replace(parse_label_config(config("b_valuelist")), others=frozenset("abcdefgh"))
job = PredictionJob(Task(3, 7, ("a.png", "b.png")), schema)
print(answer_key(job, "c", version="v", code="x"), job.key)
"""


def test_keys_are_the_same_in_every_process() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", SPELLED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def _drawn(encoding: bytes) -> Region:
    origin = RegionOrigin.MANUAL
    return Region("r", 0, (4, 4), None, "lid", origin, None, lambda: None, encoding=encoding)  # type: ignore[arg-type,return-value]


def test_jobs_about_other_masks_of_the_same_length_are_not_joined() -> None:
    job = PredictionJob(Task(3, 7, ("a.png",)), parse_label_config(config("b_valuelist")))
    ours, theirs = (replace(job, canvas=(_drawn(bytes_),)) for bytes_ in (b"ab", b"cd"))
    assert ours.key == replace(job, canvas=(_drawn(b"ab"),)).key
    assert ours.key != theirs.key
