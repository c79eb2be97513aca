"""A sampler whose every configuration can be had again: a function of the seed, the trial's number and what it saw.

Optuna's samplers are seeded once and draw on from there, so what one of them says depends on all that the same process
has asked it before, and on which trial happened to end first (optuna issue 3056). Here every trial has a sampler of its
own, with a seed of its own. What that one sees are the trials that were asked for before it, told or not, and which of
them were not is stored with the trial. That is the order of asks and tells, as far as a sampler can know it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from storage.database import schema
from study.seeds import derive_seed

# Of the sampler itself, which may insist, and then at random. When all of these are under way, so is the whole space,
# or all but a sliver of it.
_OWN_ATTEMPTS = 5
_RANDOM_ATTEMPTS = 1000

View = Callable[[list[FrozenTrial]], list[FrozenTrial]]


class Repeatable(BaseSampler):
    """Another sampler, asked anew for each trial. No two trials that are under way get the same configuration.

    Args:
        fresh: From a trial's number and the attempt, from 0, at a configuration that is not under way, to a sampler
            that has never been asked.
        seed: Of what is drawn when the sampler insists on configurations that are under way.
        space: All that a trial samples.
        view: From the trials before one to those that its sampler sees.
        goes_by_number: Whether a configuration is to follow from the trial's number alone, whatever ends first: then it
            differs from those of all trials before it.
    """

    def __init__(
        self,
        fresh: Callable[[int, int], BaseSampler],
        seed: int,
        space: Mapping[str, BaseDistribution],
        view: View = list,
        goes_by_number: bool = False,
    ) -> None:
        self._fresh, self._seed, self._view, self._goes_by_number = fresh, seed, view, goes_by_number
        # Optuna itself gives a parameter its only value.
        self._space = {name: each for name, each in space.items() if not each.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        under_way = trial.user_attrs.get(schema.UNDER_WAY)
        # Stored already: its driver died in sampling. It saw what that one saw.
        if under_way is None:
            before = _before(study, trial.number)
            under_way = [other.number for other in before if not other.state.is_finished()]
            study._storage.set_trial_user_attr(trial._trial_id, schema.UNDER_WAY, under_way)
        return self._configuration(study, study._storage, trial, under_way)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # Only of what another wrapper has taken out of a whole configuration, and does not give itself.
        return self._fresh(trial.number, 0).sample_independent(study, trial, param_name, param_distribution)

    def ask_again(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any] | None:
        """What a trial of the study is given by a sampler that sees what its own saw. Stores nothing.

        None if it is not known what that was: the trial repeats another one, or an older version has sampled it.
        """
        if (under_way := trial.user_attrs.get(schema.UNDER_WAY)) is None:
            return None
        anew = create_trial(state=TrialState.RUNNING)
        anew.number = trial.number
        return self._configuration(study, _ReadOnlyStorage(study._storage), anew, under_way)

    def _configuration(
        self, study: optuna.Study, storage: BaseStorage | _ReadOnlyStorage, trial: FrozenTrial, under_way: Sequence[int]
    ) -> dict[str, Any]:
        before = [_running(other) if other.number in under_way else other for other in _before(study, trial.number)]
        seen = cast("optuna.Study", _SeenStudy(study, storage, self._view(before)))
        taken = [
            {name: other.params.get(name) for name in self._space}
            for other in before
            if self._goes_by_number or other.state is TrialState.RUNNING
        ]
        proposals = self._proposals(seen, trial)
        first = next(proposals)
        if first not in taken:
            return first
        return next((proposal for proposal in proposals if proposal not in taken), first)

    def _proposals(self, seen: optuna.Study, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
        for attempt in range(_OWN_ATTEMPTS):
            yield self._sample(self._fresh(trial.number, attempt), seen, trial)
        at_random = RandomSampler(derive_seed(self._seed, trial.number))
        for _ in range(_RANDOM_ATTEMPTS):
            yield self._sample(at_random, seen, trial)

    def _sample(self, sampler: BaseSampler, seen: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        sampled = sampler.sample_relative(seen, trial, sampler.infer_relative_search_space(seen, trial))
        return {
            name: sampled[name] if name in sampled else sampler.sample_independent(seen, trial, name, distribution)
            for name, distribution in self._space.items()
        }


class _SeenStudy:
    """A study as a sampler sees it."""

    def __init__(self, study: optuna.Study, storage: BaseStorage | _ReadOnlyStorage, trials: list[FrozenTrial]) -> None:
        self._study, self._storage, self._trials = study, storage, trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        # Optuna's own name, under which its samplers ask.
        return [trial for trial in self._trials if states is None or trial.state in states]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


class _ReadOnlyStorage:
    """A storage in which samplers store nothing."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def _before(study: optuna.Study, number: int) -> list[FrozenTrial]:
    return [trial for trial in study._get_trials(deepcopy=False) if trial.number < number]


def _running(trial: FrozenTrial) -> FrozenTrial:
    """A trial as it was before it was told anything."""
    running = copy(trial)
    running.state, running.values, running.intermediate_values = TrialState.RUNNING, None, {}
    return running
