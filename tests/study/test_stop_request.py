"""What signals say to a driver: a process of its own, and real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.sources import REPOSITORY

PROGRAM = """
import sys, time
from study import stop_request
from study.stop_request import StopRequest
stop_request._SAME_REQUEST_S = float(sys.argv[1])
stop = StopRequest()
print("listening", flush=True)
seen = (False, False)
while True:
    time.sleep(0.01)
    now = (stop.is_requested(), stop.is_urgent())
    if now != seen:
        seen = now
        print(stop.signal_name, "urgent" if now[1] else "requested", flush=True)
"""


@pytest.fixture
def start() -> Iterator:
    started = []

    def start(same_request_s: float = 0.0, *wrapper: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", PROGRAM, str(same_request_s)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU])
def test_each_of_these_asks_for_an_end(start, number):
    process = start()

    process.send_signal(number)

    assert said(process) == f"{number.name} requested"


def test_a_second_one_is_urgent_and_a_third_one_ends_the_process(start):
    process = start()
    process.send_signal(signal.SIGTERM)
    assert said(process) == "SIGTERM requested"
    process.send_signal(signal.SIGINT)
    assert said(process) == "SIGTERM urgent"

    process.send_signal(signal.SIGINT)

    assert process.wait(30) == -signal.SIGINT


def test_signals_that_follow_at_once_are_one_request(start):
    process = start(60.0)
    process.send_signal(signal.SIGTERM)
    assert said(process) == "SIGTERM requested"

    for _ in range(5):
        process.send_signal(signal.SIGTERM)
    process.send_signal(0)

    assert process.poll() is None


def test_a_driver_under_nohup_goes_on_when_its_terminal_is_lost(start):
    process = start(0.0, "nohup")

    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)

    assert said(process) == "SIGTERM requested"
