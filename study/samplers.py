"""Samplers by the name that a config gives them: one row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from study.seeds import derive_seed


class SamplerError(ValueError):
    """There is no sampler of this name, or it needs a package that is not installed."""


class RandomByTrialNumber(BaseSampler):
    """Random search in which the seed, the trial's number and the parameter's name say it all.

    Optuna's own seeded RandomSampler starts its sequence anew in each process, so a resumed study would sample its
    first configurations again (optuna issue 4859). Here trial 17 is the same configuration in any order, after any
    resume, and in every study of the same seed, as the two arms of a comparison need.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        seed = derive_seed(self._seed, trial.number, param_name)
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)


def _gp(seed: int) -> BaseSampler:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise SamplerError(
            "sampler 'gp' needs PyTorch, which is not in the environment; install it (`uv pip install torch`) or "
            f"choose one of {', '.join(name for name in SAMPLERS if name != 'gp')}."
        ) from error
    return optuna.samplers.GPSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": RandomByTrialNumber,
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "gp": _gp,
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
    "nsgaii": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
}


def check_sampler(name: str) -> None:
    """Raise what `build_sampler` would, before there is a study.

    Raises:
        SamplerError: There is none of this name, or it lacks a package.
    """
    build_sampler(name, seed=0, finished_trials=0)


def build_sampler(name: str, seed: int, finished_trials: int) -> BaseSampler:
    """The sampler of a study.

    Args:
        finished_trials: Those of earlier runs: samplers that draw from a sequence would repeat it after a resume, so
            all but `random`, which goes by the trial's number, and `qmc`, whose position in the sequence is in the
            database, are seeded with it.

    Raises:
        SamplerError: There is none of this name.
    """
    if name not in SAMPLERS:
        raise SamplerError(f"study.sampler={name!r}; it must be one of {', '.join(SAMPLERS)}.")
    repeats_nothing = name in {"random", "qmc"}
    return SAMPLERS[name](seed if repeats_nothing else derive_seed(seed, finished_trials))
