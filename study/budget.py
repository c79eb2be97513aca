"""What a study may cost: node-hours, time, a last moment, and trials in vain, beside their number. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:\s*(\d+(?:\.\d+)?)\s*([dhms]))+\s*")


class BudgetError(ValueError):
    """The budget is used up. The message says what to raise."""


def duration_s(text: str) -> float:
    """Such as 36h, 90m or 1d 12h, in seconds.

    Raises:
        ValueError: It is not written like that, or is nothing.
    """
    total_s = 0.0
    if _DURATION.fullmatch(text):
        total_s = sum(
            float(number) * _UNITS_S[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)\s*([dhms])", text)
        )
    if total_s <= 0:
        raise ValueError("write a time above 0 such as '36h', '90m' or '1d 12h'")
    return total_s


def _check_duration(text: str) -> str:
    duration_s(text)
    return text


class BudgetSettings(BaseModel):
    """Each limit ends the study; without one, nothing but study.trials does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node_hours: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """Of allocations, idle and lost ones included; on one machine, of attempts."""
    wall: Annotated[str, AfterValidator(_check_duration)] | None = None
    """For which drivers have run the study, all in all."""
    until: datetime | None = None
    """By the driver's clock; where it says no time zone, in the driver's."""
    stagnant_trials: int | None = Field(default=None, ge=1)
    """Completed trials without a better score, after which no new one begins."""
    noise: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """By how much a score must exceed the best one to be better: what two seeds of one configuration differ by."""

    @model_validator(mode="after")
    def _noise_has_a_use(self) -> BudgetSettings:
        if self.noise and self.stagnant_trials is None:
            raise ValueError("noise says what counts for stagnant_trials, which is not set; set it, too")
        return self


@dataclass(frozen=True)
class Spent:
    """What a study has cost so far, and when that is."""

    node_hours: float
    wall_s: float
    unix_s: float


@dataclass(frozen=True)
class Need:
    """What a trial takes until it has a result."""

    wall_s: float
    nodes: int

    @property
    def node_s(self) -> float:
        return self.wall_s * self.nodes


@dataclass(frozen=True)
class Budget:
    """The limits of one study."""

    settings: BudgetSettings

    @property
    def is_limited(self) -> bool:
        settings = self.settings
        return any(limit is not None for limit in (settings.node_hours, settings.wall, settings.until))

    def used_up(self, spent: Spent) -> str:
        """The limit that has been reached, in words; empty if none has."""
        settings = self.settings
        if settings.node_hours is not None and spent.node_hours >= settings.node_hours:
            return f"budget.node_hours={settings.node_hours:g} is used up: {spent.node_hours:.4g} node-hours are spent"
        if settings.wall is not None and spent.wall_s >= duration_s(settings.wall):
            return f"budget.wall={settings.wall!r} is used up: drivers have run for {time_in_words(spent.wall_s)}"
        if settings.until is not None and spent.unix_s >= settings.until.timestamp():
            return f"budget.until={settings.until.isoformat()} is over"
        return ""

    def is_enough_for(self, need: Need, under_way: Sequence[Need], spent: Spent) -> bool:
        """Whether the rest brings one more trial to a result, beside those that are under way.

        Args:
            need: Of the trial that would begin.
            under_way: What each of the others still needs.
        """
        settings, needed_s = self.settings, need.wall_s
        node_hours = spent.node_hours + sum(each.node_s for each in (need, *under_way)) / 3600
        if settings.node_hours is not None and node_hours > settings.node_hours:
            return False
        if settings.wall is not None and spent.wall_s + needed_s > duration_s(settings.wall):
            return False
        return settings.until is None or spent.unix_s + needed_s <= settings.until.timestamp()

    def describe(self, spent: Spent) -> str:
        """What is spent, of what may be."""
        settings = self.settings
        of_hours = "" if settings.node_hours is None else f" of {settings.node_hours:g}"
        of_wall = "" if settings.wall is None else f" of {settings.wall}"
        until = "" if settings.until is None else f", until {settings.until.isoformat(sep=' ', timespec='minutes')}"
        return f"{spent.node_hours:.4g}{of_hours} node-hours, {time_in_words(spent.wall_s)}{of_wall}{until}"


def time_in_words(seconds: float) -> str:
    """With one digit after the point, in hours or in minutes."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
