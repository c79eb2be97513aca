"""What a study optimises, and what it must keep to: names in a config, values of trials. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from storage.database.schema import TrialRecord
from storage.protocol.energy import JOULES_PER_KWH, deciding_counter
from storage.protocol.records import SCORES, Outcome

if TYPE_CHECKING:
    # A config is checked without Optuna, which takes seconds to import.
    from optuna.trial import FrozenTrial

# A network whose weights are not finite predicts no class at all: its scores are 0, and samplers learn from it.
VALUE_OF_DIVERGED = 0.0


def _val_loss(record: TrialRecord) -> float | None:
    losses = record.curves.get("val_loss", [])
    return losses[record.counted_epoch] if record.counted_epoch is not None else None


def _energy_kwh(record: TrialRecord) -> float | None:
    joules = record.energy_j_by_counter.get(deciding_counter(record.communicator.get("gpus", [])))
    return None if joules is None else joules / JOULES_PER_KWH


ENERGY = "energy_kwh"
"""Of all attempts, by one counter. Only where it is measured: a study that names it does not begin elsewhere."""

_COSTS: dict[str, Callable[[TrialRecord], float | None]] = {
    "val_loss": _val_loss,
    "node_hours": lambda record: record.node_hours,
    "wall_s": lambda record: record.wall_s,
    ENERGY: _energy_kwh,
}
# Not of every data set: a trial may not report it.
_MEASURED = tuple(score for score in SCORES if score != "accuracy_top5")
FURTHER_OBJECTIVES = (*_MEASURED, *(f"-{cost}" for cost in _COSTS))
"""What may stand beside the first objective, which is one of SCORES. A minus: the lower, the better."""

_CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+.\deE]+)\s*")


@dataclass(frozen=True)
class Objective:
    """One number of a trial, and which end of it is the better one."""

    name: str
    """Of SCORES, or val_loss, node_hours, wall_s or energy_kwh."""
    is_minimised: bool = False

    @classmethod
    def parse(cls, text: str) -> Objective:
        """As a config writes it; checked there."""
        return cls(text.removeprefix("-"), text.startswith("-"))

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """As Optuna has it."""
        return "minimize" if self.is_minimised else "maximize"

    def value_of(self, record: TrialRecord) -> float:
        """Of a trial that trained to its end or diverged: then its network is worth nothing, at whatever cost."""
        value = _measured(self.name, record)
        if self.name in SCORES and record.outcome == Outcome.DIVERGED:
            return VALUE_OF_DIVERGED
        if value is None or not math.isfinite(value):
            return math.inf if self.is_minimised else VALUE_OF_DIVERGED
        return value


@dataclass(frozen=True)
class Constraint:
    """What a trial must keep to in order to be the best one."""

    name: str
    bound: float
    is_upper: bool
    text: str

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Such as `node_hours <= 40`.

        Raises:
            ValueError: It is not written like that, or names nothing that every trial reports.
        """
        match = _CONSTRAINT.fullmatch(text)
        names = (*_MEASURED, *_COSTS)
        if match is None or match[1] not in names:
            raise ValueError(f"write NAME <= NUMBER or NAME >= NUMBER, with a NAME of {', '.join(names)}")
        bound = float(match[3])
        return cls(match[1], bound, match[2] == "<=", f"{match[1]} {match[2]} {bound:g}")

    def violation(self, record: TrialRecord) -> float:
        """By how much a trial breaks it, as Optuna has it: above 0 if it does."""
        value = _measured(self.name, record)
        if value is None or not math.isfinite(value):
            return math.inf
        return value - self.bound if self.is_upper else self.bound - value


def keeps_to_constraints(trial: FrozenTrial) -> bool:
    """Whether it breaks none of its study's; true where there are none."""
    return all(violation <= 0 for violation in trial.constraints.values())


class HasValues(Protocol):
    """A completed trial."""

    @property
    def number(self) -> int: ...

    @property
    def values(self) -> Sequence[float]: ...


Completed = TypeVar("Completed", bound=HasValues)


def pareto_front(eligible: Sequence[Completed], objectives: Sequence[Objective]) -> list[Completed]:
    """The trials that no other one is at least as good as in everything and better in something, best first.

    Args:
        eligible: Completed trials that keep to the study's constraint.
    """
    losses = [_losses(trial, objectives) for trial in eligible]
    front = [
        trial
        for trial, own in zip(eligible, losses, strict=True)
        if not any(_dominates(other, own) for other in losses)
    ]
    return sorted(front, key=lambda trial: (*_losses(trial, objectives), trial.number))


def format_values(values: Sequence[float], objectives: Sequence[Objective]) -> str:
    """Such as f1_micro 0.6912, node_hours 0.0213."""
    return ", ".join(
        # Of a short training, the kilowatt-hours have no four digits.
        f"{each.name} {value:{'.3g' if 0 < value < 0.001 else '.4f'}}"
        for each, value in zip(objectives, values, strict=True)
    )


def _measured(name: str, record: TrialRecord) -> float | None:
    if name in _COSTS:
        return _COSTS[name](record)
    named = {"f1_micro": record.f1_micro, "f1_macro": record.f1_macro}
    return record.scores.get(name, named.get(name))


def _losses(trial: HasValues, objectives: Sequence[Objective]) -> tuple[float, ...]:
    return tuple(
        value if objective.is_minimised else -value for value, objective in zip(trial.values, objectives, strict=True)
    )


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
