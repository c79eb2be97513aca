"""A command ends by the signal that it gets, wherever in its code that comes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.architecture.sources import REPOSITORY

# The signal is handled in a __del__, where Python ignores what is raised.
PROGRAM = """
import signal, sys
from cluster.exit_on_signals import exit_on_signals
from study.command_line import exit_code_of

class Ended:
    def __del__(self):
        signal.raise_signal(int(sys.argv[1]))

def wait():
    Ended()
    print("ignored", flush=True)
    signal.pause()

exit_on_signals()
sys.exit(exit_code_of(wait))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_python_would_ignore_comes_again(number):
    program = (sys.executable, "-c", PROGRAM, str(int(number)))

    ended = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "ignored\n", "")


def test_what_else_python_ignores_is_said_as_ever():
    program = PROGRAM.replace("signal.raise_signal(int(sys.argv[1]))", "raise ValueError('lost')")
    program = program.replace("signal.pause()", "return 0")

    ended = subprocess.run((sys.executable, "-c", program), cwd=REPOSITORY, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 0
    assert "ValueError: lost" in ended.stderr
