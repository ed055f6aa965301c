"""A replica that dies, hangs or talks nonsense costs a try and not an answer."""

from __future__ import annotations

import pytest

from backend.errors import FleetError, StoppedError
from backend.fleet.replica_pool import TRIES, Breaker, ReplicaPool
from tests.unit.fleet.replica_double import HandleDouble, ReplicaDied


def pool(answer, *, try_s=60.0, **options):
    handle = HandleDouble(answer)
    options = {"pause": lambda _seconds: False} | options
    return handle, ReplicaPool("click", handle, try_s=try_s, **options)


def ask(asked, *args, **options):
    return asked.ask("predict", b"job", "key", bytes, *args, **options)


def first_fail(count, error=None):
    return lambda number, _body: (error or ReplicaDied()) if number < count else b"answer"


def test_the_replica_of_the_key_answers():
    handle, replicas = pool(first_fail(0))
    assert ask(replicas) == b"answer"
    assert handle.asked == [("predict", "key")]


@pytest.mark.parametrize("dead", range(1, TRIES))
def test_another_try_follows_a_dead_replica_and_the_third_goes_elsewhere(dead):
    handle, replicas = pool(first_fail(dead))
    assert ask(replicas) == b"answer"
    assert len(handle.sessions) == dead + 1
    assert handle.sessions[:2] == ["key", "key"]
    elsewhere = handle.sessions[2:]
    assert "key" not in elsewhere
    assert len(set(elsewhere)) == len(elsewhere)


def test_after_four_tries_the_last_reason_is_told_in_one_line():
    handle, replicas = pool(first_fail(9))
    with pytest.raises(FleetError, match=r"none of 4 click replicas.*ReplicaDied: the last line"):
        ask(replicas)
    assert len(handle.asked) == TRIES


def test_a_replica_that_hangs_is_left_at_the_deadline_and_told_so():
    handle, replicas = pool(lambda number, _: None if number == 0 else b"answer", try_s=0.0)
    assert ask(replicas) == b"answer"
    assert [response.cancelled for response in handle.responses] == [True, False]


def test_an_answer_nobody_waits_for_is_given_up():
    handle, replicas = pool(lambda _number, _body: None)
    with pytest.raises(StoppedError):
        ask(replicas, lambda: False)
    assert [response.cancelled for response in handle.responses] == [True]


def test_an_answer_that_cannot_be_read_is_asked_for_elsewhere():
    def read(body):
        if body == b"nonsense":
            raise FleetError("another release")
        return body

    _, replicas = pool(lambda number, _: b"nonsense" if number < 2 else b"answer")
    assert replicas.ask("predict", b"job", "key", read) == b"answer"


def test_whoever_was_no_help_is_not_asked_again():
    handle, replicas = pool(first_fail(0))
    ask(replicas, begin_elsewhere=True)
    assert "key" not in handle.sessions


def test_a_closing_server_asks_no_more():
    handle, replicas = pool(first_fail(9), pause=lambda _seconds: bool(handle_asked))
    handle_asked = handle.asked
    with pytest.raises(StoppedError):
        ask(replicas)
    assert len(handle.asked) == 1


def test_tries_are_counted():
    outcomes = []
    _, replicas = pool(first_fail(2), note_try=outcomes.append)
    ask(replicas)
    assert outcomes == ["failed", "failed", "answered"]


class TestBreaker:
    """Refuses while nobody answers, and not because single replicas die."""

    def setup_method(self):
        self.now = 0.0
        self.alive = False
        breaker = Breaker(refuse_after=3, pause_s=5.0, clock=lambda: self.now)
        self.handle, self.replicas = pool(
            lambda _number, _body: b"answer" if self.alive else ReplicaDied(), breaker=breaker
        )

    def fail(self, times):
        for _ in range(times):
            with pytest.raises(FleetError, match="none of"):
                ask(self.replicas)

    def test_questions_are_refused_at_once_while_the_fleet_is_away(self):
        self.fail(3)
        asked = len(self.handle.asked)
        with pytest.raises(FleetError, match="answers now") as caught:
            ask(self.replicas)
        assert caught.value.retry_after_s == 5
        assert len(self.handle.asked) == asked

    def test_one_question_is_let_through_after_the_pause_and_its_answer_lets_all(self):
        self.fail(3)
        self.now, self.alive = 5.0, True
        assert ask(self.replicas) == b"answer"
        assert ask(self.replicas) == b"answer"

    def test_a_question_without_answer_after_the_pause_begins_another_pause(self):
        self.fail(3)
        self.now = 5.0
        self.fail(1)
        with pytest.raises(FleetError, match="answers now"):
            ask(self.replicas)

    def test_an_answer_between_forgets_the_failures(self):
        self.fail(2)
        self.alive = True
        ask(self.replicas)
        self.alive = False
        self.fail(3)

    def test_many_failed_tries_of_answered_questions_refuse_nothing(self):
        _, replicas = pool(lambda number, _: b"answer" if number % 4 == 3 else ReplicaDied())
        assert [ask(replicas) for _ in range(9)] == [b"answer"] * 9
