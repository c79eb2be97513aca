"""What is left of a study, in numbers and in words; corrected by each of its trials that ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from storage.database.schema import TrialRecord
from storage.protocol.workload import Workload
from study.budget import time_in_words
from study.forecast.fit import Estimate
from study.forecast.forecast import Forecast, StudyForecast, constant_schedules, schedules
from study.forecast.measurements import Conditions, Measurements
from study.plan import StudyPlan

_STALE_AT = 1.05
"""Times the epochs of which it was fitted."""


class Outlook:
    """One study's.

    Args:
        workloads: Each different one of its trials, as the preflight gives them.
        measured: Of earlier studies.
    """

    def __init__(
        self, plan: StudyPlan, conditions: Conditions, workloads: Sequence[Workload], measured: Measurements
    ) -> None:
        self._plan, self._conditions, self._measured = plan, conditions, measured
        epochs = plan.config.training.epochs
        self._schedules, self._constant = schedules(workloads, epochs), constant_schedules(workloads, epochs)
        self._train_samples = max((workload.train_samples for workload in workloads), default=0)
        self._fitted: Forecast | None = None
        self._fitted_epochs = -1
        """Of which it was fitted; -1: of none yet."""

    def learn(self, record: TrialRecord) -> None:
        """Take a trial of this study into account that has just ended."""
        if (measured := self._conditions.measured(record)).epochs:
            self._measured += measured

    def study(self, trials: int) -> StudyForecast | None:
        """What so many trials take; None as long as too little was measured."""
        return self._of_trials(self._schedules, trials)

    def constant_study(self, trials: int) -> StudyForecast | None:
        """The same with the smallest batch to the end; None where that is how they train."""
        return None if self._constant == self._schedules else self._of_trials(self._constant, trials)

    def needed_s(self, done: int, epochs: int, has_started: bool) -> float | None:
        """Seconds in which a trial that has `done` epochs trains so many more, at the most; None: nobody knows."""
        forecast = self._forecast
        if forecast is None or not self._schedules:
            return None
        left = [forecast.epochs_s(schedule[done : done + epochs]) for schedule in self._schedules]
        longest = Estimate.spanning(left)
        if not longest.is_bounded:
            return None
        return longest.high + (0.0 if has_started else forecast.start_s().high)

    def left_in_words(self, trials: int) -> str:
        """For a line of status: empty if nothing is left or known."""
        if trials < 1 or (study := self.study(trials)) is None:
            return ""
        return f"{trials} left: {_hours(study.node_hours)} node-hours, {_times(study.wall_s)}"

    def describe(self, finished: int, now: datetime) -> str:
        """For a dry run.

        Args:
            finished: Trials of this study.
        """
        trials = max(0, self._plan.config.study.total_trials - finished)
        study = self.study(trials)
        if study is None:
            return self._why_not()
        begin, end = (now + timedelta(seconds=seconds) for seconds in (study.wall_s.low, study.wall_s.high))
        left = f"{_counted(trials)}{' left' * (finished > 0)}"
        lines = [
            f"{left}, {self._devices(trials)} at once: {_hours(study.node_hours)} node-hours; {_times(study.wall_s)}, "
            f"done between {_moment(begin)} and {_moment(end)} if started now"
            f"{' and no job waits' * (self._plan.site.slurm is not None)}"
        ]
        if (constant := self.constant_study(trials)) is not None:
            lines.append(f"with the smallest batch to the end: {_hours(constant.node_hours)} node-hours")
        if self._plan.config.pruner.resolved(self._plan.config.training.epochs).name != "none":
            lines.append("without what the pruner saves")
        limit = self._plan.config.budget.node_hours
        if limit is not None and study.node_hours.high > limit:
            lines.append(
                f"budget.node_hours={limit:g} {'ends' if study.node_hours.low > limit else 'may end'} it earlier"
            )
        return "\n".join([*lines, self._basis()])

    def _basis(self) -> str:
        epochs = self._measured.epochs
        sizes = sorted({epoch.global_batch_size for epoch in epochs})
        ranks = sorted({epoch.placement.ranks for epoch in epochs})
        unseen = sorted({size for schedule in self._schedules for size in schedule} - set(sizes))
        lacking = f"; batch {_listed(unseen)} was not measured" if unseen else ""
        trials = _counted(len(self._measured.starts))
        return f"from {len(epochs)} epochs of {trials} at batch {_listed(sizes)} on {_listed(ranks)} ranks{lacking}"

    @property
    def _grows(self) -> bool:
        return bool(self._plan.config.resources.nodes_per_rung)

    def _why_not(self) -> str:
        if self._grows:
            return "none: with resources.nodes_per_rung a trial has as many ranks as it reaches rungs"
        measured = len(self._measured.epochs)
        what = "no epoch of such trials" if measured == 0 else f"no more than {measured} epochs, which tell too little,"
        layout = self._plan.layout
        return (
            f"none: {what} of {layout.world_size} ranks at site {self._plan.site.name!r}. Train one trial there: "
            "study/run.py with this config and --trials 1 --name PROBE (and fewer training.epochs, if each batch size "
            "gets two of them); then add --forecast-from PROBE here."
        )

    def _devices(self, trials: int) -> str:
        layout, at_once = self._plan.layout, min(self._plan.slots, max(1, trials))
        if layout.gpus_per_node:
            return f"{at_once * layout.nodes * layout.gpus_per_node} GPUs"
        return f"{at_once * layout.world_size} ranks"

    def _of_trials(self, possible: Sequence[Sequence[int]], trials: int) -> StudyForecast | None:
        forecast = self._forecast
        if forecast is None or not possible:
            return None
        slurm = self._plan.site.slurm
        walltime_s = math.inf if slurm is None else float(slurm.walltime_s)
        trial_s = Estimate.spanning([forecast.trial_s(schedule, walltime_s) for schedule in possible])
        if not trial_s.is_bounded:
            return None
        return StudyForecast.of(trial_s, trials, self._plan.slots, self._plan.layout.nodes)

    @property
    def _forecast(self) -> Forecast | None:
        """Of what is measured by now, but for the last few epochs of very many: trials come by the hundred, and a fit
        looks at all of them."""
        if self._grows:
            return None
        epochs = len(self._measured.epochs)
        if epochs > _STALE_AT * self._fitted_epochs:
            layout = self._plan.layout
            placement = self._conditions.placement(layout.world_size, layout.nodes)
            self._fitted = Forecast.of(self._measured, placement, self._train_samples)
            self._fitted_epochs = epochs
        return self._fitted


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _counted(trials: int) -> str:
    return f"{trials} trial{'s' * (trials != 1)}"


def _hours(hours: Estimate) -> str:
    return f"{_two_digits(hours.low)} to {_two_digits(hours.high)}"


def _times(seconds: Estimate) -> str:
    return f"{time_in_words(seconds.low)} to {time_in_words(seconds.high)}"


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _two_digits(value: float) -> str:
    """No more than a forecast is worth: 310, 1,000, 0.012."""
    return f"{float(f'{value:.2g}'):,.10g}"
