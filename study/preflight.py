"""Checks what every trial of a study shares, before anything is stored or submitted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from storage.trial_dir import TrialDir
from study.config import ConfigError, StudyConfig
from study.search_space import Choices
from study.transitions import cause


def check_shared_parts(config: StudyConfig, world_size: int) -> None:
    """Have the trainer check data set, splits and batch sizes, in a process of its own and without TensorFlow.

    Raises:
        ConfigError: With the trainer's own words.
    """
    spec = config.trial_spec(number=0, seed=0, sampled=_any_sample(config), world_size=world_size)
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


def _any_sample(config: StudyConfig) -> dict[str, Any]:
    """One value of each parameter: which one does not matter to what is checked here."""
    return {
        name: parameter.choices[0] if isinstance(parameter, Choices) else parameter.low
        for name, parameter in config.search_space.parameters().items()
    }
