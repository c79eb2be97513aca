"""The configurations of an earlier study once more, trial by trial: `study.replay` and --replay.

A study that replays another one takes its configurations from there by their numbers, whatever ends first this time.
That they are the sampler's own shows in that study's database alone: each of its trials says what its sampler saw, so
that the sampler can be asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import URL

from storage.database import schema
from storage.database.endpoint import as_storage_errors, open_existing_study
from study.config import StudyConfig
from study.finding import place_of
from study.samplers import GO_ON_FROM_THE_DATABASE, build_sampler

# What makes a sampler say what it says, beside the trials' results.
_OF_THE_SAMPLER = ("sampler", "seed", "repeats", "configurations")


class ReplayError(ValueError):
    """A study cannot be replayed by this one. The message says what to do."""


def recorded_configurations(config: StudyConfig) -> list[dict[str, Any]]:
    """Parameters of the trials of the study that a config replays, by their numbers; empty if it replays none.

    Raises:
        StorageError: There is no such database or study.
        ReplayError: That study has no trials, or another search space, sampler or seed.
    """
    if (recorded := _recorded(config)) is None:
        return []
    _, trials = recorded
    return [trial.params for trial in trials]


def describe_replay(config: StudyConfig, earlier: Sequence[FrozenTrial]) -> str | None:
    """What a config replays, and whether the sampler says the same again; None if it replays nothing.

    Args:
        earlier: From which the sampler learns beside the study's own trials.

    Raises:
        StorageError, ReplayError: See `recorded_configurations`.
    """
    if (recorded := _recorded(config)) is None:
        return None
    study, trials = recorded
    words = f"{len(trials)} configurations of {study.study_name}"
    if config.study.sampler in GO_ON_FROM_THE_DATABASE or study.user_attrs[schema.STUDY_CONFIG]["study"].get("replay"):
        return words
    sampler = build_sampler(config.study, config.search_space, earlier)
    again = {trial.number: sampler.ask_again(study, trial) for trial in trials}
    sampled = {number: configuration for number, configuration in again.items() if configuration is not None}
    others = [number for number, configuration in sampled.items() if not _agree(configuration, trials[number], config)]
    if not sampled:
        return f"{words}; an older version has not stored how they were sampled"
    if not others:
        return f"{words}; asked again, the sampler gives the same"
    return (
        f"{words}, which are taken as they are; asked again, the sampler gives another one for trial "
        f"{', '.join(map(str, others))}: other packages, another processor, another warm start or trials that were "
        "run again can be the cause"
    )


def _recorded(config: StudyConfig) -> tuple[optuna.Study, list[FrozenTrial]] | None:
    if config.study.replay is None:
        return None
    name, url = place_of(config.study.replay, "--replay", config.study.runs_dir)
    study, trials = _read(name, url)
    _require_same_sampler(f"--replay {name}", study.user_attrs.get(schema.STUDY_CONFIG), config)
    if not trials:
        raise ReplayError(f"--replay {name}: this study has no trials yet; name another one.")
    return study, trials


def _read(name: str, url: URL) -> tuple[optuna.Study, list[FrozenTrial]]:
    with as_storage_errors(url):
        study = open_existing_study(url, name)
        return study, study.get_trials(deepcopy=False)


def _require_same_sampler(where: str, stored: dict[str, Any] | None, config: StudyConfig) -> None:
    if stored is None:
        raise ReplayError(f"{where}: Switchyard did not make this study; name another one.")
    now, defaults = config.identity(), StudyConfig.identity_defaults()
    for key in _OF_THE_SAMPLER:
        before = stored["study"].get(key, defaults["study"][key])
        if before != now["study"][key]:
            raise ReplayError(
                f"{where}: study.{key} is {before!r} there and {now['study'][key]!r} here, so its sampler gives other "
                f"configurations: take that value, or leave --replay out."
            )
    for table in ("search_space", "enqueue"):
        if stored.get(table, defaults.get(table)) != now[table]:
            raise ReplayError(
                f"{where}: {table} is {stored.get(table)} there and {now[table]} here; only a study with the same one "
                "can be replayed."
            )


def _agree(configuration: dict[str, Any], trial: FrozenTrial, config: StudyConfig) -> bool:
    index = trial.number // config.study.repeats
    given = config.enqueue[index] if index < len(config.enqueue) else {}
    return all(trial.params.get(name) == value for name, value in configuration.items() if name not in given)
