"""Studies as a driver leaves them in a database, made by the schema's own types, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url

from storage.database import schema
from storage.database.schema import AttemptRow, TrialRecord
from storage.protocol.codec import to_plain
from storage.protocol.records import ClassScores, SplitScores
from study.config import CONFIGS_DIR, load_config
from study.reporting.load import Arm, read_arm

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.9),
    "nesterov": CategoricalDistribution([False, True]),
}
CLASSES = ("Forest", "River", "Sea <lake>")
SWITCH = {"name": "switch_at_epoch", "small_global_batch_size": 32, "large_global_batch_size": 256, "switch_epoch": 2}
CONSTANT = {"name": "constant", "global_batch_size": 32}


def parameters(number: int) -> dict[str, Any]:
    """Configuration `number`: the same in every study, as the sampler `random` has it."""
    draws = np.random.default_rng(number).uniform(size=3)
    return {
        "learning_rate": float(10 ** (-3 + 3 * draws[0])),
        "momentum": float(0.9 * draws[1]),
        "nesterov": bool(draws[2] < 0.5),
    }


def config(policy: Mapping[str, Any], **tables: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the demo study with another batch policy and other values, as a driver stores it."""
    identity = load_config(CONFIGS_DIR / "demo.toml", []).identity()
    identity |= {"batch_policy": dict(policy), "world_size": 2}
    return {
        name: {**value, **tables.get(name, {})} if isinstance(value, dict) else value
        for name, value in identity.items()
    }


def completed(
    number: int,
    score: float,
    epochs: int = 4,
    wall_s: float = 100.0,
    sizes: Sequence[int] = (32, 32, 256, 256),
    attempts: Sequence[AttemptRow] = (),
    sampled: Mapping[str, Any] | None = None,
    has_test: bool = False,
    stored: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A trial that reached `score` in F1 micro, and 0.1 less in F1 macro.

    Args:
        sampled: Its parameters; None: those of configuration `number`.
        stored: User attributes in place of what its record says.
    """
    curve = [score * (1 - 0.5 ** (epoch + 1)) / (1 - 0.5**epochs) for epoch in range(epochs)]
    batch_sizes = [sizes[min(epoch, len(sizes) - 1)] for epoch in range(epochs)]
    seconds = [wall_s / epochs * (0.5 if size > 32 else 1.0) for size in batch_sizes]
    record = TrialRecord(
        outcome="completed",
        reason="",
        wall_s=wall_s,
        node_hours=wall_s * 2 / 3600,
        attempt_count=max(1, len(attempts)),
        f1_micro=score,
        f1_macro=score - 0.1,
        scores={"f1_micro": score, "f1_macro": score - 0.1, "accuracy": score / 2},
        classes=to_plain(class_scores(score)),
        counted_epoch=epochs - 1,
        test=to_plain(SplitScores(50, 0.4, {"f1_micro": score - 0.02}, class_scores(score))) if has_test else {},
        images_per_s_by_batch_size={str(size): 1000.0 * (1 + (size > 32)) for size in dict.fromkeys(batch_sizes)},
        epoch_s_by_batch_size={str(size): seconds[batch_sizes.index(size)] for size in dict.fromkeys(batch_sizes)},
        curves={
            "global_batch_size": [float(size) for size in batch_sizes],
            "f1_micro": curve,
            "f1_macro": [value - 0.1 for value in curve],
            "val_loss": [1 - value for value in curve],
            "wall_s": seconds,
        },
        hosts=["node1", "node2"],
        data_plane="mpi",
        communicator={"world_size": 2, "gpus": ["", ""], "versions": {"tensorflow": "2.20.0"}},
    )
    rows = attempts or [AttemptRow("completed", 0, wall_s)]
    attributes = {**record.attributes(), schema.ATTEMPTS: [to_plain(row) for row in rows], **(stored or {})}
    return create_trial(
        value=score,
        params=dict(sampled or parameters(number)),
        distributions=SPACE,
        user_attrs=attributes,
        intermediate_values=dict(enumerate(curve)),
    )


def diverged(number: int, epochs: int = 1) -> FrozenTrial:
    record = TrialRecord(
        outcome="diverged",
        reason="the loss is not finite",
        wall_s=10.0,
        node_hours=20 / 3600,
        attempt_count=1,
        curves={"global_batch_size": [32.0] * epochs, "f1_micro": [0.1] * epochs, "wall_s": [25.0] * epochs},
    )
    attributes = {**record.attributes(), schema.ATTEMPTS: [to_plain(AttemptRow("diverged", 0, 10.0))]}
    return create_trial(value=0.0, params=parameters(number), distributions=SPACE, user_attrs=attributes)


def failed(number: int, reason: str = "ValueError: width=0") -> FrozenTrial:
    record = TrialRecord("crashed", reason, wall_s=30.0, node_hours=60 / 3600, attempt_count=2)
    rows = [AttemptRow("crashed", 1, 15.0, reason), AttemptRow("crashed", 1, 15.0, reason)]
    attributes = {**record.attributes(), schema.ATTEMPTS: [to_plain(row) for row in rows]}
    return create_trial(state=TrialState.FAIL, params=parameters(number), distributions=SPACE, user_attrs=attributes)


def running(number: int, scores: Sequence[float] = ()) -> FrozenTrial:
    """A trial under way, with the scores of the epochs so far."""
    return create_trial(
        state=TrialState.RUNNING,
        params=parameters(number),
        distributions=SPACE,
        intermediate_values=dict(enumerate(scores)),
    )


def class_scores(score: float) -> ClassScores:
    values = [score, score / 2, 0.0]
    return ClassScores(
        names=list(CLASSES),
        samples=[10, 20, 30],
        precision=values,
        recall=values,
        f1=values,
        average_precision=values,
        thresholds=[],
        confusion=[[8, 1, 1], [5, 10, 5], [10, 10, 10]],
    )


def store(
    folder: Path, name: str, trials: Sequence[FrozenTrial], identity: Mapping[str, Any] | None, **attributes: Any
) -> str:
    """Write a study into runs/NAME/study.db, as a driver names it; gives the database's URL."""
    path = folder / "runs" / name / "study.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{path}"
    study = optuna.create_study(storage=url, study_name=name, direction="maximize")
    stored = {schema.STUDY_CONFIG: identity, schema.OBJECTIVE: "f1_micro", schema.STUDY_UUID: "0" * 32, **attributes}
    for key, value in stored.items():
        if value is not None:
            study.set_user_attr(key, value)
    study.add_trials(trials)
    return url


def arm(name: str, trials: Sequence[FrozenTrial], policy: Mapping[str, Any] = SWITCH, **tables: Any) -> Arm:
    """A study that is in no file."""
    study = optuna.create_study(study_name=name, direction="maximize")
    study.set_user_attr(schema.STUDY_CONFIG, config(policy, **tables))
    study.set_user_attr(schema.OBJECTIVE, "f1_micro")
    study.add_trials(trials)
    return read_arm(study, make_url("sqlite:///study.db"))


def experiment(configurations: int = 12, seeds: int = 2) -> dict[str, tuple[dict[str, Any], list[FrozenTrial]]]:
    """The arms `switch` and `constant`, with all that can go wrong in one: each one's config and trials."""
    draws = np.random.default_rng(5)
    arms = {}
    for name, policy, offset, wall_s in (("switch", SWITCH, -0.01, 60.0), ("constant", CONSTANT, 0.0, 100.0)):
        sizes = (32, 32, 256, 256) if policy is SWITCH else (32,)
        lost = [AttemptRow("interrupted", -9, 20.0, "the node went away"), AttemptRow("completed", 0, wall_s)]
        trials = [
            completed(
                number,
                float(np.clip(_expected_score(number) + offset + draws.normal(0, 0.008), 0.1, 1)),
                epochs=6,
                wall_s=wall_s * float(draws.uniform(0.9, 1.1)),
                sizes=sizes,
                attempts=lost if (number, seed) == (1, 0) else (),
                has_test=number == 0,
            )
            for number in range(configurations)
            for seed in range(seeds)
        ]
        trials += [diverged(configurations), failed(configurations + 1), running(configurations + 2)]
        trials.append(completed(configurations + 3, 0.5, stored={"classes": {"names": "broken"}}))
        arms[name] = config(policy, study={"repeats": seeds}), trials
    return arms


def _expected_score(number: int) -> float:
    """Best at a learning rate of 0.1."""
    return float(0.75 - 0.25 * abs(np.log10(parameters(number)["learning_rate"]) + 1) / 2)
