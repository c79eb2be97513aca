"""Which arms compare, and what their shared configurations say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.config import StudyConfig
from study.reporting import statistics
from study.reporting.load import Arm, Configuration
from study.reporting.statistics import Correlation, Estimate

# What the arms of an experiment differ in on purpose, or what decides only how often something is trained.
_EXPECTED = ("batch_policy", "study.repeats", "study.configurations", "study.test_split")
# With another score or another space, two numbers or two configurations are not of the same thing.
_DECISIVE = ("search_space", "study.objective")
_NO_PAIRS = "no configuration completed in both"


@dataclass(frozen=True)
class Pair:
    """One configuration that completed in both arms."""

    baseline: Configuration
    other: Configuration

    def values(self, score: str) -> tuple[float, float] | None:
        """The means of a score over the trials; None where one side has not measured it."""
        first, second = self.baseline.mean(score), self.other.mean(score)
        return None if first is None or second is None else (first, second)


@dataclass(frozen=True)
class Comparison:
    """One arm beside the baseline."""

    baseline: Arm
    other: Arm
    unlike: tuple[str, ...]
    """What else than the batch policy differs, in words."""
    obstacle: str
    """Why nothing is paired, in words; empty if it is."""
    pairs: tuple[Pair, ...]

    @property
    def is_decisively_unlike(self) -> bool:
        """Whether they search other spaces or for other scores, or nobody knows."""
        return bool(self.obstacle) and self.obstacle != _NO_PAIRS

    @property
    def unlike_in_words(self) -> str:
        return (
            f"{self.other.name} and {self.baseline.name} differ in more than the batch policy: "
            f"{'; '.join(self.unlike)}. A difference between them may come from that."
        )

    def values(self, score: str) -> tuple[list[float], list[float]]:
        """A score of each pair: the baseline's and the other's."""
        both = [values for pair in self.pairs if (values := pair.values(score)) is not None]
        return [first for first, _ in both], [second for _, second in both]

    def differences(self, score: str) -> list[float]:
        """Other minus baseline, by pair."""
        first, second = self.values(score)
        return [after - before for before, after in zip(first, second, strict=True)]

    def mean_difference(self, score: str) -> Estimate | None:
        differences = self.differences(score)
        return statistics.mean_difference(differences) if differences else None

    def correlation(self, score: str, kind: Correlation) -> Estimate | None:
        return statistics.rank_correlation(*self.values(score), kind)

    def agreement(self, score: str, count: int) -> int | None:
        return statistics.top_agreement(*self.values(score), count)

    @property
    def speed_up(self) -> Estimate | None:
        """How many times as fast as the baseline's the other's trials are, by their mean duration over the pairs."""
        walls = [(pair.baseline.mean_wall_s, pair.other.mean_wall_s) for pair in self.pairs]
        known = [(first, second) for first, second in walls if first and second]
        if not known:
            return None
        return statistics.ratio_of_means([first for first, _ in known], [second for _, second in known])

    @property
    def unpaired(self) -> int:
        """Configurations that both arms have, but that did not complete in both."""
        keys = {c.key for c in self.baseline.configurations} & {c.key for c in self.other.configurations}
        return len(keys) - len(self.pairs)


def choose_baseline(arms: Sequence[Arm]) -> Arm:
    """The first arm with a constant batch size, or else the first."""
    return next((arm for arm in arms if arm.policy == "constant"), arms[0])


def compare_arms(arms: Sequence[Arm]) -> list[Comparison]:
    """Every other arm beside the baseline."""
    baseline = choose_baseline(arms)
    return [compare(baseline, arm) for arm in arms if arm is not baseline]


def compare(baseline: Arm, other: Arm) -> Comparison:
    differing = list(_differences(baseline, other))
    decisive = [words for name, words in differing if _is_under(name, _DECISIVE)]
    unlike = tuple(words for name, words in differing if not _is_under(name, _EXPECTED))
    others = {configuration.key: configuration for configuration in other.configurations if configuration.completed}
    pairs = tuple(
        Pair(configuration, others[configuration.key])
        for configuration in baseline.configurations
        if configuration.completed and configuration.key in others
    )
    obstacle = ""
    if without := [arm.name for arm in (baseline, other) if not arm.config]:
        obstacle = f"the config of {without[0]!r} is not stored, so nobody knows what it compares with"
    elif decisive:
        obstacle = "; ".join(decisive)
    elif not pairs:
        obstacle = _NO_PAIRS
    return Comparison(baseline, other, unlike, obstacle, () if obstacle else pairs)


def _differences(first: Arm, second: Arm) -> Iterator[tuple[str, str]]:
    """The name of each value in which two studies' identities differ, and the difference in words."""
    if not (first.config and second.config):
        return
    defaults = dict(_flatten(StudyConfig.identity_defaults()))
    values = [dict(_flatten(arm.config)) for arm in (first, second)]
    for name in sorted(values[0].keys() | values[1].keys()):
        before, after = (value.get(name, defaults.get(name, _ABSENT)) for value in values)
        if before != after:
            yield name, f"{name} is {_shown(before)} in {first.name!r} and {_shown(after)} in {second.name!r}"


_ABSENT = object()


def _shown(value: Any) -> str:
    return "not set" if value is _ABSENT else repr(value)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping):
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _is_under(name: str, places: Sequence[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)
