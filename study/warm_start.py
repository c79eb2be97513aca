"""Trials of earlier studies, for a sampler to learn from: `study.warm_start` and --warm-start."""

from __future__ import annotations

from copy import copy

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from sqlalchemy import URL

from storage.database.endpoint import as_storage_errors, open_existing_study
from study.config import StudyConfig
from study.finding import place_of
from study.finished_trials import completed_trials


class WarmStartError(ValueError):
    """An earlier study has nothing to learn from for this one. The message says what to do."""


def earlier_trials(config: StudyConfig) -> list[FrozenTrial]:
    """The complete trials of the studies that a config names, numbered before the study's own.

    Raises:
        StorageError: There is no such database or study.
        WarmStartError: A study has no complete trial, another search space or other objectives.
    """
    places = [place_of(source, "--warm-start", config.study.runs_dir) for source in config.study.warm_start]
    found = [trial for name, url in places for trial in _trials_of(name, url, config)]
    numbered = []
    for number, trial in enumerate(found, start=-len(found)):
        numbered.append(copy(trial))
        # Samplers order trials by their numbers, and take the last ones for the newest.
        numbered[-1].number = number
    return numbered


def _trials_of(name: str, url: URL, config: StudyConfig) -> list[FrozenTrial]:
    study = open_existing_study(url, name)
    with as_storage_errors(url):
        directions = [direction.name.lower() for direction in study.directions]
        trials = completed_trials(study.get_trials(deepcopy=False))
        metrics = list(study.metric_names or ["an objective without a name"])
    where = f"--warm-start {name}"
    goals = [goal.name for goal in config.study.goals]
    if not trials:
        raise WarmStartError(f"{where}: this study has no completed trial to learn from; name another one.")
    if directions != [goal.direction for goal in config.study.goals] or metrics != goals:
        raise WarmStartError(
            f"{where}: this study optimises {', '.join(metrics)}, the new one {', '.join(goals)}; their values do not "
            "compare: name another one."
        )
    distributions = config.search_space.distributions()
    for trial in trials:
        if trial.distributions != distributions:
            raise WarmStartError(
                f"{where}: trial {trial.number} of this study samples {_words(trial.distributions)}, the new one "
                f"{_words(distributions)}; a sampler learns from the same search space only."
            )
    return trials


def _words(distributions: dict[str, BaseDistribution]) -> str:
    return ", ".join(f"{name} from {distribution}" for name, distribution in sorted(distributions.items()))
