"""How numbers and rules are said in a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from study.reporting.load import Arm, Configuration
from study.reporting.statistics import Estimate

_LABELS = {
    "f1_micro": "F1 micro",
    "f1_macro": "F1 macro",
    "accuracy_top5": "top-5 accuracy",
    "node_hours": "node-hours",
    "wall_s": "seconds",
    "val_loss": "validation loss",
    "energy_kwh": "kWh",
}


def label(score: str) -> str:
    """A score's name as a table's heading has it."""
    return _LABELS.get(score, score.replace("_", " "))


def epoch_rule(arms: Sequence[Arm]) -> str:
    """Of which epoch the scores are."""
    rules = {arm.objective_epoch for arm in arms}
    if rules == {"last"}:
        return "in the last epoch"
    if rules == {"best"}:
        return "in each trial's best epoch"
    return "in the epoch that counts (" + ", ".join(f"{arm.name}: the {arm.objective_epoch} one" for arm in arms) + ")"


def seeds(arms: Sequence[Arm]) -> str:
    """How many completed trials a configuration has."""
    counts = [len(c.completed) for arm in arms for c in arm.configurations if c.completed]
    if not counts:
        return "no seed"
    low, high = min(counts), max(counts)
    if low == high:
        return f"{low} seed{'s' * (low > 1)} per configuration"
    return f"{low} to {high} seeds per configuration"


def number(value: float, digits: int = 4, signed: bool = False) -> str:
    return f"{value:{'+' * signed}.{digits}f}".replace("-", "−")


def with_interval(estimate: Estimate, digits: int = 4, signed: bool = False) -> str:
    """The number, and in brackets its 95 % interval."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, digits, signed)
    low, high = number(estimate.low, digits, signed), number(estimate.high, digits, signed)
    return f"{number(estimate.value, digits, signed)} (95 % interval {low} to {high})"


def duration(seconds: float) -> str:
    """In the largest unit of which there are two."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def batches(sizes: Sequence[int]) -> str:
    """Global batch sizes in the order of the training."""
    return " → ".join(f"{size:,}" for size in sizes) or "–"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def listed(words: Iterable[str]) -> str:
    """a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def label_of(configuration: Configuration) -> str:
    """By the numbers of its trials."""
    numbers = [trial.number for trial in configuration.trials]
    if len(numbers) == 1:
        return f"trial {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"trials {numbers[0]}–{numbers[-1]}"
    return f"trials {', '.join(map(str, numbers))}"
