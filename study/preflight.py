"""Checks what every trial of a study shares, before anything is stored or submitted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.records import TrialSpec
from storage.trial_dir import TrialDir
from study.config import ConfigError, StudyConfig
from study.search_space import Choices
from study.transitions import cause


def check_shared_parts(config: StudyConfig, world_size: int) -> None:
    """Have the trainer check data set, splits and batch sizes, in a process of its own and without TensorFlow.

    Raises:
        ConfigError: With the trainer's own words.
    """
    for sampled in _samples(config):
        _check(config.trial_spec(number=0, seed=0, sampled=sampled, world_size=world_size))


def _check(spec: TrialSpec) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        trial = TrialDir(Path(scratch))
        trial.write_spec(spec)
        check = subprocess.run(
            [sys.executable, "-m", "trainers", scratch, "--check"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
            capture_output=True,
            text=True,
        )
    if check.returncode:
        raise ConfigError(cause(check.stderr))


def _samples(config: StudyConfig) -> Iterator[dict[str, Any]]:
    """One configuration, and with it each other choice, or the other end of the range, of what is checked here."""
    values = {
        name: parameter.choices if isinstance(parameter, Choices) else (parameter.low, parameter.high)
        for name, parameter in config.search_space.parameters().items()
    }
    first = {name: among[0] for name, among in values.items()}
    yield first
    for name in [*config.search_space.dataset, *config.search_space.batch_policy]:
        yield from (first | {name: value} for value in values[name][1:])
