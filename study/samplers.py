"""Samplers by the name that a config gives them: one row each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from study.config import StudySettings
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


class EnqueuedFirst(_Around):
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


class Seeing(_Around):
    """Another sampler, which sees other trials than the study has."""

    def __init__(self, sampler: BaseSampler, view: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> None:
        """
        Args:
            view: From the study's trials to those that the sampler sees.
        """
        super().__init__(sampler)
        self._view = view

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(self._seen(study), trial, param_name, param_distribution)

    def _seen(self, study: optuna.Study) -> optuna.Study:
        return cast("optuna.Study", _SeenStudy(study, self._view))


class _SeenStudy:
    """A study as a sampler sees it."""

    def __init__(self, study: optuna.Study, view: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> None:
        self._study, self._view = study, view

    def _get_trials(self, *arguments: Any, **options: Any) -> list[FrozenTrial]:
        # Optuna's own name, under which its samplers ask.
        return self._view(self._study._get_trials(*arguments, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


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
    "nsgaii": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
}
OF_ONE_OBJECTIVE = ("cmaes",)
LEARN_FROM_EARLIER = ("tpe", "cmaes")
"""Those that a warm start helps."""


def check_sampler(settings: StudySettings) -> None:
    """Raise what `sampler_of` would, before there is a study.

    Raises:
        SamplerError: There is none of this name, it lacks a package, or it cannot do what the study asks for.
    """
    build_sampler(settings.sampler, seed=0, finished_trials=0)
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
    finished_trials: int,
    enqueue: Sequence[Mapping[str, Any]] = (),
    earlier: Sequence[FrozenTrial] = (),
) -> BaseSampler:
    """What gives a study's trials their parameters; see `build_sampler`.

    Args:
        enqueue: Parameters, not all of them necessarily, of the first configurations.
        earlier: Complete trials of other studies, from which it learns as from its own.
    """
    if settings.configurations:
        return FixedConfigurations(settings.configurations)
    sampler: BaseSampler
    if settings.sampler == "random":
        sampler = RandomByTrialNumber(settings.seed, settings.repeats)
    else:
        sampler = build_sampler(settings.sampler, settings.seed, finished_trials, earlier)
        if len(settings.goals) > 1:
            sampler = Seeing(sampler, _without_pruned)
        sampler = sampler if settings.repeats == 1 else Repeating(sampler, settings.repeats)
    return EnqueuedFirst(sampler, enqueue, settings.repeats) if enqueue else sampler


def build_sampler(name: str, seed: int, finished_trials: int, earlier: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """The sampler of a name.

    Args:
        finished_trials: Those of earlier runs: samplers that draw from a sequence would repeat it after a resume, so
            all but `random`, which goes by the trial's number, and `qmc`, whose position in the sequence is in the
            database, are seeded with it.
        earlier: Complete trials of other studies.

    Raises:
        SamplerError: There is none of this name.
    """
    if name not in SAMPLERS:
        raise SamplerError(f"study.sampler={name!r}; it must be one of {', '.join(SAMPLERS)}.")
    repeats_nothing = name in {"random", "qmc"}
    own_seed = seed if repeats_nothing else derive_seed(seed, finished_trials)
    with warnings.catch_warnings():
        # Versions are pinned: that an interface may change is nothing to a person who runs a study.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if earlier and name == "cmaes":
            # Warm starting CMA-ES: Nomura et al. 2021, arXiv:2012.06932.
            return optuna.samplers.CmaEsSampler(seed=own_seed, source_trials=[*earlier])
        sampler = SAMPLERS[name](own_seed)
    return Seeing(sampler, lambda trials: [*earlier, *trials]) if earlier else sampler
