"""Corrections are the same whatever the order of events, and whole after a kill."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.storage.store import open_store
from tests.unit.learning.annotated import deletion, event, results, task_deletion
from tests.unit.learning.test_derivation import MASK, PREDICTED, SMALLER, derive


def history(project):
    """Three annotators' work, with a skip and deletions."""
    drawn = [
        event(
            number,
            results((f"r{number}", mask, "lid")),
            task=task,
            annotator=annotator,
            second=second * 3 + number,
            project=project,
        )
        for number, task, annotator in ((1, 1, 1), (2, 1, 2), (3, 2, 1))
        for second, mask in enumerate((MASK, SMALLER))
    ]
    return [
        *drawn,
        event(4, [], task=3, skipped=True, project=project),
        event(5, PREDICTED, task=4, project=project),
        deletion(3, project=project),
        task_deletion(4, project=project),
    ]


EVENTS = range(10)
PROJECTS = itertools.count(100)


def everything(repository, project=7):
    rows = repository.tasks(project)
    told = [(row.task_id, row.annotation_id, row.tally, row.agreement) for row in rows]
    return told, repository.outcomes(project)


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    order=st.permutations(EVENTS),
    again=st.lists(st.sampled_from(EVENTS), max_size=4),
    cuts=st.sets(st.integers(0, len(EVENTS))),
)
def test_corrections_do_not_depend_on_portions_order_or_repetition(repository, order, again, cuts):
    found = []
    for deliveries, stops in ((EVENTS, set()), ([*order, *again], cuts)):
        project = next(PROJECTS)
        told = history(project)
        for place, number in enumerate(deliveries):
            repository.store.record_events([told[number]])
            if place in stops:
                derive(repository, project=project)
        derive(repository, project=project)
        found.append(everything(repository, project))
        Derivation(repository).rebuild(project)
        found.append(everything(repository, project))
    assert [task[0] for task in found[0][0]] == [1, 3]
    assert found == [found[0]] * 4


DERIVER = """
import sys
from backend.learning.derivation import Derivation
from backend.learning.repository import CorrectionRepository
from backend.storage.store import open_store
repository = CorrectionRepository(open_store(sys.argv[1], is_guest=True))
derivation = Derivation(repository)
while True:
    derivation.rebuild(7, on_progress=lambda done, all: print(done, flush=True))
"""


def test_corrections_are_whole_after_kill_9(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.sqlite3'}"
    store = open_store(url)
    repository = CorrectionRepository(store)
    drawn = [results(*((f"{n}-{k}", MASK, "lid") for k in range(n))) for n in range(1, 9)]
    store.record_events([event(n, found, task=n) for n, found in enumerate(drawn, start=1)])
    derive(repository)
    expected = everything(repository)
    for round_number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", DERIVER, url],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        with process:
            for _ in range(1 + 8 * round_number):
                assert process.stdout.readline()
            time.sleep(0.003 * round_number)
            process.send_signal(signal.SIGKILL)
        for row in repository.tasks(7):  # never a task without its regions
            assert len(repository.outcomes(7, row.task_id)) == row.tally.added
        derive(repository)
        assert everything(repository) == expected
    store.close()
