"""The command line answers at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.sources import REPOSITORY


@pytest.mark.parametrize("command", ["study/run.py", "study/doctor.py", "study/gpu_check.py"])
def test_help_comes_without_the_libraries_of_the_ranks_and_those_that_take_seconds(command):
    answer = _run(sys.executable, "-X", "importtime", command, "--help")

    imported = {line.rsplit("|")[-1].strip() for line in answer.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in imported
    assert not imported & {"tensorflow", "keras", "horovod", "mpi4py"}
    assert not imported & {"optuna", "sqlalchemy", "distributed", "dask", "pandas", "scipy", "altair"}


def test_the_package_imports_nothing_until_something_of_it_is_used():
    answer = _run(sys.executable, "-X", "importtime", "-c", "import study")

    imported = {line.rsplit("|")[-1].strip() for line in answer.stderr.splitlines() if line.startswith("import time:")}
    assert "study" in imported
    assert not imported & {"optuna", "pydantic", "pandas", "altair"}


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
