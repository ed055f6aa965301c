"""Late answers are sent with patience, and dropped when nothing helps."""

from __future__ import annotations

import threading

from backend.errors import BusyError, LabelStudioError
from backend.serving.jobs import PredictionResult
from backend.serving.late_answers import LateAnswerSender
from backend.serving.metrics import Metrics
from backend.types import Task

TASK = Task(id=3, project_id=1, image_urls=("a",))
ANSWER = PredictionResult(b"[]", 0.5, "v")


class Studio:
    def __init__(self, refusals):
        self.refusals = refusals
        self.tries = 0
        self.tried = threading.Semaphore(0)

    def __call__(self, task, answer):
        self.tries += 1
        self.tried.release()
        if self.tries <= self.refusals:
            raise LabelStudioError("not now")


def outcome(metrics, name):
    return metrics.registry.get_sample_value("calico_tasks_total", {"outcome": name}) or 0


def test_a_refused_answer_is_sent_again():
    studio, metrics = Studio(refusals=2), Metrics()
    sender = LateAnswerSender(studio, metrics, pauses_s=(0.001, 0.001))
    sender.push(TASK, ANSWER)
    sender.push(TASK, ANSWER)
    for _ in range(4):
        assert studio.tried.acquire(timeout=10)
    assert outcome(metrics, "pushed") >= 1
    assert outcome(metrics, "push_failed") == 0
    sender.close()


def test_an_answer_nobody_takes_is_dropped_and_the_next_is_tried():
    studio, metrics = Studio(refusals=2), Metrics()
    sender = LateAnswerSender(studio, metrics, pauses_s=(0.001,))
    sender.push(TASK, ANSWER)
    sender.push(TASK, ANSWER)
    for _ in range(3):
        assert studio.tried.acquire(timeout=10)
    assert outcome(metrics, "push_failed") == 1
    sender.close()


def test_a_full_queue_is_said():
    gate = threading.Event()
    sender = LateAnswerSender(lambda *_: gate.wait(10), Metrics(), capacity=1)
    refused = 0
    for _ in range(3):
        try:
            sender.push(TASK, ANSWER)
        except BusyError:
            refused += 1
    assert refused >= 1
    gate.set()
    sender.close()
