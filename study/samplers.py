"""Samplers by the name that a config gives them: one row each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from study.config import StudySettings
from study.repeatable import Repeatable
from study.search_space import SearchSpace
from study.seeds import derive_seed


class SamplerError(ValueError):
    """There is no sampler of this name, or it needs a package that is not installed."""


class _ByParameter(BaseSampler):
    """One that samples each parameter by itself."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


class _Around(BaseSampler):
    """One that changes what another one samples."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)


class RandomByTrialNumber(_ByParameter):
    """Random search in which the seed, the trial's number and the parameter's name say it all.

    Optuna's own seeded RandomSampler starts its sequence anew in each process, so a resumed study would sample its
    first configurations again (optuna issue 4859). Here trial 17 is the same configuration in any order, after any
    resume, and in every study of the same seed, as the two arms of a comparison need.
    """

    def __init__(self, seed: int, repeats: int = 1) -> None:
        """
        Args:
            repeats: Trials in a row that are one configuration: the same ones, in a row, as without repeats.
        """
        self._seed, self._repeats = seed, repeats

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        seed = derive_seed(self._seed, trial.number // self._repeats, param_name)
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)


class FixedConfigurations(_ByParameter):
    """Not a search: the given configurations in turn, over and over."""

    def __init__(self, configurations: Sequence[Mapping[str, Any]]) -> None:
        self._configurations = configurations

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._configurations[trial.number % len(self._configurations)][param_name]


class NSGAIISampler(optuna.samplers.NSGAIISampler):
    """Optuna's, under the name by which it knows its own rows, with a generation's parents always in one order.

    Optuna's has them in order of rank when it has just chosen them and in order of number when it reads them back, and
    draws from them by their places.
    """

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)


class Repeating(_Around):
    """Another sampler's configurations, each several times in a row."""

    def __init__(self, sampler: BaseSampler, repeats: int) -> None:
        super().__init__(sampler)
        self._repeats = repeats

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if self._first(study, trial) else self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {} if self._first(study, trial) else self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        first = self._first(study, trial)
        if first is not None and param_name in first.params:
            return first.params[param_name]
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def _first(self, study: optuna.Study, trial: FrozenTrial) -> FrozenTrial | None:
        """The trial whose configuration this one repeats; None if it is the first itself."""
        number = trial.number - trial.number % self._repeats
        return None if number == trial.number else study.get_trials(deepcopy=False)[number]


class GivenFirst(_Around):
    """Given configurations for the first trials, by their numbers; what they leave open, and all others, is sampled."""

    def __init__(self, sampler: BaseSampler, configurations: Sequence[Mapping[str, Any]], repeats: int) -> None:
        super().__init__(sampler)
        self._configurations, self._repeats = configurations, repeats

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        sampled = self._sampler.sample_relative(study, trial, search_space)
        return {name: value for name, value in sampled.items() if name not in self._given(trial)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        given = self._given(trial)
        if param_name in given:
            return given[param_name]
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def _given(self, trial: FrozenTrial) -> Mapping[str, Any]:
        index = trial.number // self._repeats
        return self._configurations[index] if index < len(self._configurations) else {}


def _without_pruned(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Optuna's TPE ranks pruned trials by their last epoch, and asks for the one direction of the study to do it: with
    several objectives that is an error.
    """
    return [trial for trial in trials if trial.state is not TrialState.PRUNED]


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
    "nsgaii": lambda seed: NSGAIISampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
}
OF_ONE_OBJECTIVE = ("cmaes",)
GO_ON_FROM_THE_DATABASE = ("qmc",)
"""Those whose place in a sequence is in the database: asked for a trial again, they give the next point."""
BY_NUMBER = ("random", "qmc")
"""Those whose configuration follows from the trial's number, so that arms of one seed have the same ones."""
LEARN_FROM_EARLIER = ("tpe", "cmaes")
"""Those that a warm start helps."""


def check_sampler(settings: StudySettings) -> None:
    """Raise what `sampler_of` would, before there is a study.

    Raises:
        SamplerError: There is none of this name, it lacks a package, or it cannot do what the study asks for.
    """
    _new_sampler(settings.sampler, settings.seed)
    if len(settings.goals) > 1 and settings.sampler in OF_ONE_OBJECTIVE:
        raise SamplerError(
            f"study.sampler={settings.sampler!r} has one objective only, and study.objectives names "
            f"{', '.join(settings.objectives)}; choose one of "
            f"{', '.join(name for name in SAMPLERS if name not in OF_ONE_OBJECTIVE)}."
        )
    if settings.warm_start and settings.sampler not in LEARN_FROM_EARLIER:
        raise SamplerError(
            f"study.sampler={settings.sampler!r} learns nothing from a warm start; choose one of "
            f"{', '.join(LEARN_FROM_EARLIER)}."
        )


def sampler_of(
    settings: StudySettings,
    search_space: SearchSpace,
    enqueue: Sequence[Mapping[str, Any]] = (),
    earlier: Sequence[FrozenTrial] = (),
    replayed: Sequence[Mapping[str, Any]] = (),
) -> BaseSampler:
    """What gives a study's trials their parameters.

    Args:
        enqueue: Parameters, not all of them necessarily, of the first configurations.
        earlier: Complete trials of other studies, from which it learns as from its own.
        replayed: Parameters of the first trials, by their numbers; they come before anything else.
    """
    if settings.configurations:
        return FixedConfigurations(settings.configurations)
    sampler: BaseSampler = build_sampler(settings, search_space, earlier)
    if settings.repeats > 1:
        sampler = Repeating(sampler, settings.repeats)
    if enqueue:
        sampler = GivenFirst(sampler, enqueue, settings.repeats)
    return GivenFirst(sampler, replayed, repeats=1) if replayed else sampler


def build_sampler(
    settings: StudySettings, search_space: SearchSpace, earlier: Sequence[FrozenTrial] = ()
) -> Repeatable:
    """What samples a study's configurations, apart from those that are given.

    Raises:
        SamplerError: There is none of this name, or it lacks a package.
    """
    name, seed = settings.sampler, settings.seed

    def fresh(number: int, attempt: int) -> BaseSampler:
        match name:
            case "random":
                return RandomByTrialNumber(seed if attempt == 0 else derive_seed(seed, attempt), settings.repeats)
            case _ if name in GO_ON_FROM_THE_DATABASE:
                return _new_sampler(name, seed)
            case _:
                return _new_sampler(name, derive_seed(seed, number, attempt), earlier)

    def view(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        # CMA-ES has a way of its own to learn from them.
        seen = trials if name == "cmaes" else [*earlier, *trials]
        return seen if len(settings.goals) == 1 else _without_pruned(seen)

    return Repeatable(fresh, seed, search_space.distributions(), view, goes_by_number=name in BY_NUMBER)


def _new_sampler(name: str, seed: int, earlier: Sequence[FrozenTrial] = ()) -> BaseSampler:
    if name not in SAMPLERS:
        raise SamplerError(f"study.sampler={name!r}; it must be one of {', '.join(SAMPLERS)}.")
    with warnings.catch_warnings():
        # Versions are pinned: that an interface may change is nothing to a person who runs a study.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if earlier and name == "cmaes":
            # Warm starting CMA-ES: Nomura et al. 2021, arXiv:2012.06932.
            return optuna.samplers.CmaEsSampler(seed=seed, source_trials=[*earlier])
        return SAMPLERS[name](seed)
