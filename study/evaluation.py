"""Which configurations of a study are trained again with fresh seeds, as a study of its own, and what they scored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL

from storage.database import schema
from storage.database.schema import Evaluated, TrialRecord
from storage.protocol.codec import from_plain
from storage.protocol.exports import SeedInterval
from storage.protocol.records import BatchScaling
from storage.protocol.trial_dir import TrialDir
from study.config import StudyConfig
from study.finding import folder_of_study
from study.finished_trials import completed_trials, eligible_trials, record_of
from study.intervals import over_seeds
from study.resources import ResourceSettings
from study.seeds import derive_seed

DEFAULT_TOP = 3
DEFAULT_SEEDS = 5
# Trials of a study, beyond those that it has, whose seeds the evaluation's must not meet.
_TRIALS_TO_COME = 1000
_OF_A_SEARCH = ("objectives", "constraint", "warm_start", "replay")


class EvaluationError(ValueError):
    """The study cannot be evaluated as it was asked for."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that a study has tried."""

    parameters: dict[str, Any]
    trials: tuple[int, ...]
    """Numbers of its complete trials."""
    score: float
    """Mean of their values; one that diverged has 0."""


@dataclass(frozen=True)
class Wishes:
    """What a person asks of an evaluation. None: what it was begun with, or else the default."""

    top: int | None = None
    seeds: int | None = None
    test_split: bool | None = None

    def check(self) -> None:
        """
        Raises:
            EvaluationError: A number below 1.
        """
        for option, value in (("--top", self.top), ("--seeds", self.seeds)):
            if value is not None and value < 1:
                raise EvaluationError(f"{option} {value}: give a number from 1.")


def candidates(trials: Sequence[FrozenTrial]) -> list[Candidate]:
    """The configurations that have trained to the end at least once, the best first.

    Trials of the same parameters are one configuration, as the repeats of a study are. One of which a trial breaks the
    study's constraint is none.
    """
    completed = {trial.number for trial in completed_trials(trials)}
    broken = completed - {trial.number for trial in eligible_trials(trials)}
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            groups.setdefault(key_of(trial.params), []).append(trial)
    found = [
        Candidate(same[0].params, tuple(t.number for t in same), fmean(t.values[0] for t in same))
        for same in groups.values()
        if any(trial.number in completed for trial in same) and not any(trial.number in broken for trial in same)
    ]
    return sorted(found, key=lambda each: (-each.score, each.trials))


def key_of(parameters: Mapping[str, Any]) -> str:
    """Equal for the same configuration alone."""
    return json.dumps(dict(parameters), sort_keys=True)


def begin(source: optuna.Study, url: URL, name: str, wishes: Wishes, runs_dir: Path) -> tuple[StudyConfig, Evaluated]:
    """The config of a new evaluation, and what ties it to its source.

    Args:
        source: The study that is evaluated, in the database at `url`.
        name: Of the evaluation.
        runs_dir: For the evaluation's folder.

    Raises:
        EvaluationError: The source has not so many configurations, or is an evaluation itself.
        ConfigError: Its stored config is none any more.
    """
    if schema.EVALUATES in source.user_attrs:
        raise EvaluationError(
            f"study {source.study_name!r} evaluates another study itself; name the study that searched instead."
        )
    best = _choose(source, wishes.top)
    tables = _stored_tables(source, url, runs_dir)
    seed = tables["study"].get("seed", 0)
    tables["study"] |= {
        "name": name,
        "trials": len(best) * (wishes.seeds or DEFAULT_SEEDS),
        "repeats": 1,
        # Nothing is sampled, so nothing that a sampler needs need be installed.
        "sampler": "random",
        "configurations": [each.parameters for each in best],
        "test_split": wishes.test_split is not False,
        "seed": _fresh_seed(seed, len(source.get_trials(deepcopy=False)) + _TRIALS_TO_COME),
        "runs_dir": str(runs_dir),
    }
    link = Evaluated(
        source.study_name, source.user_attrs.get(schema.STUDY_UUID, ""), [list(each.trials) for each in best]
    )
    return StudyConfig.from_tables(tables, f"study {source.study_name!r} in the database"), link


def go_on(
    evaluation: optuna.Study, source: optuna.Study, wishes: Wishes, runs_dir: Path
) -> tuple[StudyConfig, Evaluated]:
    """The config of an evaluation that was begun before, with more seeds where that is asked for.

    Raises:
        EvaluationError: It is no evaluation of this study, or of other configurations or another split than asked for,
            or the study has better ones by now.
    """
    name, link = evaluation.study_name, link_of(evaluation)
    if link is None:
        raise EvaluationError(f"the database has a study {name!r} that is no evaluation; choose another --name.")
    if not link.is_of(source):
        raise EvaluationError(
            f"study {name!r} evaluates another study than {source.study_name!r} as it is now: that one was "
            f"{link.study_name!r} with the UUID {link.study_uuid or 'of an older version'}. Choose another --name."
        )
    tables = dict(evaluation.user_attrs[schema.FULL_CONFIG])
    settings = tables["study"]
    chosen = settings["configurations"]
    if wishes.top not in (None, len(chosen)):
        raise EvaluationError(
            f"study {name!r} evaluates the best {len(chosen)}; --top {wishes.top} is another evaluation: give it "
            "another --name."
        )
    if wishes.test_split not in (None, settings["test_split"]):
        split = "test" if settings["test_split"] else "val"
        raise EvaluationError(f"study {name!r} was begun with --split {split}; give that, or another --name.")
    _require_same_best(name, source, chosen)
    seeds = wishes.seeds or settings["trials"] // len(chosen)
    tables["study"] = {**settings, "trials": len(chosen) * seeds, "runs_dir": str(runs_dir)}
    return StudyConfig.from_tables(tables, f"study {name!r} in the database"), link


def link_of(study: optuna.Study) -> Evaluated | None:
    """What a study evaluates; None: it is a search."""
    attributes = study.user_attrs
    if schema.EVALUATES not in attributes or schema.STUDY_CONFIG not in attributes:
        return None
    return from_plain(Evaluated, attributes[schema.EVALUATES], ignore_unknown=True)


def _choose(source: optuna.Study, top: int | None) -> list[Candidate]:
    """Args: top: None: as many as by default, or as there are."""
    found = candidates(source.get_trials(deepcopy=False))
    if not found:
        raise EvaluationError(
            f"study {source.study_name!r} has no completed trial yet, so there is nothing to evaluate; let "
            "study/run.py finish one first."
        )
    if top is not None and top > len(found):
        raise EvaluationError(
            f"--top {top}: study {source.study_name!r} has {len(found)} configuration(s) with a completed trial; use "
            f"a number from 1 to {len(found)}."
        )
    return found[: top or DEFAULT_TOP]


def _require_same_best(name: str, source: optuna.Study, chosen: Sequence[Mapping[str, Any]]) -> None:
    best = _choose(source, len(chosen))
    before = {key_of(parameters) for parameters in chosen}
    if new := [each for each in best if key_of(each.parameters) not in before]:
        raise EvaluationError(
            f"study {source.study_name!r} has changed since {name!r} was begun: trial {new[0].trials[0]} is now among "
            f"its best {len(chosen)}. Choose another --name to evaluate these."
        )


def _fresh_seed(seed: int, trials: int) -> int:
    """A study's seed from which no trial gets the seed of one of the search's."""
    taken = {derive_seed(seed, number) for number in range(trials)}
    for part in range(trials):
        fresh = derive_seed(seed, "evaluation", part)
        if taken.isdisjoint(derive_seed(fresh, number) for number in range(_TRIALS_TO_COME)):
            return fresh
    raise EvaluationError(f"no seed is left that study.seed={seed} has not used.")


def _stored_tables(study: optuna.Study, url: URL, runs_dir: Path) -> dict[str, Any]:
    """The study's config as its last driver had it, good from any folder."""
    stored = study.user_attrs.get(schema.FULL_CONFIG) or _tables_of_older(study, folder_of_study(study, url))
    _require_batches_that_stay(study.study_name, stored)
    # Of a search: an evaluation trains everything to its end, whatever it takes.
    tables = {key: value for key, value in stored.items() if key not in ("pruner", "resources", "enqueue", "budget")}
    tables["study"] = {key: value for key, value in stored["study"].items() if key not in _OF_A_SEARCH}
    cache_dir = tables["study"].get("cache_dir")
    if cache_dir is None or not Path(cache_dir).is_dir():
        # Moved, together with the studies beside it.
        tables["study"]["cache_dir"] = str(runs_dir / "cache")
    return tables


def _require_batches_that_stay(name: str, stored: Mapping[str, Any]) -> None:
    """
    Raises:
        EvaluationError: The search trained with batches that grew at its rungs.
    """
    resources = ResourceSettings.model_validate(stored.get("resources", {}))
    if len(set(resources.nodes_per_rung)) > 1 and resources.batch is BatchScaling.PER_RANK:
        raise EvaluationError(
            f"study {name!r} let its batches grow with its nodes (resources.nodes_per_rung="
            f"{list(resources.nodes_per_rung)}), which an evaluation does not: it would train something else. Only a "
            "search with resources.batch='global' can be evaluated."
        )


def _tables_of_older(study: optuna.Study, folder: Path | None) -> dict[str, Any]:
    """Of a study whose drivers stored no more than its identity: the rest is in its trials' folders, or the default."""
    identity = study.user_attrs.get(schema.STUDY_CONFIG)
    if identity is None:
        raise EvaluationError(f"study {study.study_name!r} was not made by Switchyard, so its config is not known.")
    tables = {key: value for key, value in identity.items() if key != "world_size"}
    tables["study"] = {**identity["study"], "name": study.study_name, "trials": 1}
    spec = None if folder is None else _any_spec(folder)
    if spec is not None:
        tables["study"]["cache_dir"] = spec.cache_dir
        for kind in ("dataset", "model"):
            if "path" in (options := getattr(spec, kind).options):
                # Absolute there: the study's own may be relative to a folder that nobody knows.
                tables[kind] = {**tables[kind], "path": options["path"]}
    return tables


def _any_spec(folder: Path) -> Any:
    trials = (TrialDir(path) for path in sorted((folder / "trials").glob("[0-9]*")))
    return next((trial.read_spec() for trial in trials if trial.has_spec()), None)


@dataclass(frozen=True)
class ConfigurationScores:
    """What one configuration scored with several seeds."""

    parameters: dict[str, Any]
    searched: tuple[int, ...]
    """Numbers of its trials in the study that searched."""
    completed: tuple[int, ...]
    """Numbers of its trials here whose scores these are."""
    others: dict[str, int]
    """How many of its trials here have another outcome, by outcome."""
    validation: dict[str, SeedInterval]
    """By the names of SCORES, in the epoch that counts; as `test`."""
    test: dict[str, SeedInterval]
    """Empty where the test split was not scored."""
    test_f1: dict[str, SeedInterval]
    """By the names of the classes."""

    @property
    def count(self) -> int:
        return len(self.completed)


def scores_of(evaluation: optuna.Study) -> list[ConfigurationScores]:
    """What an evaluation has found out so far, in the order of its configurations.

    Raises:
        EvaluationError: The study is no evaluation.
    """
    link = link_of(evaluation)
    if link is None:
        raise EvaluationError(f"study {evaluation.study_name!r} is a search, and evaluates no other study.")
    configurations = evaluation.user_attrs[schema.STUDY_CONFIG]["study"]["configurations"]
    trials = evaluation.get_trials(deepcopy=False)
    return [
        _scores(configuration, searched, [t for t in trials if key_of(t.params) == key_of(configuration)])
        for configuration, searched in zip(configurations, link.trials, strict=True)
    ]


def _scores(parameters: dict[str, Any], searched: Iterable[int], trials: Sequence[FrozenTrial]) -> ConfigurationScores:
    completed = completed_trials(trials)
    records = [record for trial in completed if (record := record_of(trial)) is not None]
    outcomes = [
        "unfinished" if (record := record_of(trial)) is None else record.outcome
        for trial in trials
        if trial not in completed
    ]
    tested = [record.test for record in records if record.test]
    return ConfigurationScores(
        parameters=parameters,
        searched=tuple(searched),
        completed=tuple(trial.number for trial in completed),
        others={outcome: outcomes.count(outcome) for outcome in outcomes},
        validation=_intervals([_validation_scores(record) for record in records]),
        test=_intervals([test["scores"] for test in tested]),
        test_f1=_intervals(
            [dict(zip(test["classes"]["names"], test["classes"]["f1"], strict=True)) for test in tested]
        ),
    )


def _validation_scores(record: TrialRecord) -> dict[str, float]:
    older = {"f1_micro": record.f1_micro, "f1_macro": record.f1_macro}
    return {name: value for name, value in {**older, **record.scores}.items() if value is not None}


def _intervals(of_seeds: Sequence[Mapping[str, float]]) -> dict[str, SeedInterval]:
    """Of each score that all seeds have."""
    if not of_seeds:
        return {}
    return {
        name: over_seeds([scores[name] for scores in of_seeds])
        for name in of_seeds[0]
        if all(name in scores for scores in of_seeds)
    }
