"""A database that stalls keeps nobody for longer than he wants to wait."""

from __future__ import annotations

import threading

import pytest

from storage.database.calls import StalledError, ThreadedCalls


@pytest.fixture
def calls() -> ThreadedCalls:
    return ThreadedCalls()


def patience(seconds: float):
    return lambda waited_s: waited_s >= seconds


def test_an_answer_comes_back(calls):
    assert calls.call(lambda: 42, patience(60)) == 42


def test_an_error_comes_back_as_it_is(calls):
    error = KeyError("x")

    def fail() -> None:
        raise error

    with pytest.raises(KeyError) as raised:
        calls.call(fail, patience(60))
    assert raised.value is error


def test_one_who_waits_no_more_is_let_go_and_told_how_long_he_waited(calls):
    answer = threading.Event()

    with pytest.raises(StalledError, match="has not answered for 1 s"):
        calls.call(lambda: answer.wait(60), patience(1.0))
    answer.set()


def test_the_next_call_waits_for_the_stalled_one_so_that_nothing_overtakes_it(calls):
    answer, order = threading.Event(), []

    def stall() -> None:
        answer.wait(60)
        order.append("stalled")

    for _ in range(2):
        with pytest.raises(StalledError):
            calls.call(stall if not order else order.clear, patience(0.1))
    answer.set()

    calls.call(lambda: order.append("next"), patience(60))
    assert order == ["stalled", "next"]


def test_while_one_waits_he_is_asked_again_and_again(calls):
    answer, asked = threading.Event(), []

    def wait_no_more_after_three(waited_s: float) -> bool:
        asked.append(waited_s)
        return len(asked) == 3

    with pytest.raises(StalledError):
        calls.call(lambda: answer.wait(60), wait_no_more_after_three)
    answer.set()

    assert asked == sorted(asked)
