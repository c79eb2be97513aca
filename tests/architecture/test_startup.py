"""The command line answers at once."""

from __future__ import annotations

import resource
import subprocess
import sys

from tests.architecture.sources import REPOSITORY

HELP = ("study/run.py", "--help")


def test_help_comes_in_under_a_second():
    # Processor time, the best of three: the clock on the wall also measures what else the machine does.
    seconds = min(_processor_seconds(sys.executable, *HELP) for _ in range(3))

    assert seconds < 1.0


def test_the_driver_starts_without_the_libraries_of_the_ranks():
    answer = _run(sys.executable, "-X", "importtime", *HELP)

    imported = {line.rsplit("|")[-1].strip() for line in answer.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in imported
    assert not imported & {"tensorflow", "keras", "horovod", "mpi4py"}


def test_the_package_imports_nothing_until_something_of_it_is_used():
    answer = _run(sys.executable, "-X", "importtime", "-c", "import study")

    imported = {line.rsplit("|")[-1].strip() for line in answer.stderr.splitlines() if line.startswith("import time:")}
    assert "study" in imported
    assert not imported & {"optuna", "pydantic", "pandas", "altair"}


def _processor_seconds(*command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
