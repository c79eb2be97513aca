"""Pruners by the name that a config gives them: one row each. Read without Optuna, which takes seconds to import."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from study.halving import bracket_of, bracket_sizes, default_first_rung, default_rungs
from study.seeds import derive_seed

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


class PrunerError(ValueError):
    """A pruner's options contradict one another, or what the study trains. The message names the option."""


class NoPruner(BaseModel):
    """Every trial trains to its last epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["none"] = "none"

    def resolved(self, epochs: int) -> Self:
        return self


class _Pruner(BaseModel):
    """One that stops trials."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grace_epochs: int = Field(default=1, ge=0)
    """Without a verdict, from the first one of a new batch size on, whose new statistics make curves jump."""

    def _checked(self, epochs: int) -> Self:
        if epochs < 2:
            raise PrunerError(
                f"training.epochs={epochs} leaves no epoch after which a trial could be stopped; take at least 2, or "
                "pruner.name='none'."
            )
        if self.grace_epochs >= epochs:
            raise PrunerError(
                f"pruner.grace_epochs={self.grace_epochs} of training.epochs={epochs}; it must be less, 0 to "
                f"{epochs - 1}."
            )
        return self


class EpochPruner(_Pruner):
    """One that may stop a trial after any epoch. Options that say nothing get their value from the epochs."""

    warmup_epochs: int | None = Field(default=None, ge=0)
    """Without a verdict at the beginning; default: a tenth of the epochs, at least 1."""
    interval_epochs: int = Field(default=1, ge=1)
    """From one verdict to the next."""

    def resolved(self, epochs: int) -> Self:
        """With a value for every option.

        Raises:
            PrunerError: No verdict would ever be given.
        """
        self._checked(epochs)
        warmup = max(1, epochs // 10) if self.warmup_epochs is None else self.warmup_epochs
        if warmup >= epochs:
            raise PrunerError(
                f"pruner.warmup_epochs={warmup} of training.epochs={epochs}; it must be less, 0 to {epochs - 1}."
            )
        return self.model_copy(update={"warmup_epochs": warmup})

    def is_due(self, epoch: int) -> bool:
        """Whether this epoch is one after which a verdict is given."""
        warmup = self.warmup_epochs or 0
        return epoch >= warmup and (epoch - warmup) % self.interval_epochs == 0

    @abstractmethod
    def optuna_pruner(self) -> BasePruner:
        """Which of Optuna's own decides."""


class MedianPruner(EpochPruner):
    """Stops a trial whose best score so far is below the median of the completed trials' at the same epoch."""

    name: Literal["median"]
    startup_trials: int = Field(default=5, ge=1)
    """Completed trials before the first verdict."""

    def optuna_pruner(self) -> BasePruner:
        from optuna.pruners import MedianPruner as Median

        return Median(n_startup_trials=self.startup_trials)


class PercentilePruner(EpochPruner):
    """Stops a trial whose best score so far is not among the best `percentile` of completed trials at its epoch."""

    name: Literal["percentile"]
    percentile: float = Field(default=25.0, gt=0.0, lt=100.0)
    """Of the completed trials, how many are as good as a trial must be to go on."""
    startup_trials: int = Field(default=5, ge=1)
    """Completed trials before the first verdict."""

    def optuna_pruner(self) -> BasePruner:
        from optuna.pruners import PercentilePruner as Percentile

        return Percentile(self.percentile, n_startup_trials=self.startup_trials)


class PatientPruner(EpochPruner):
    """Stops a trial whose score has not been better for `patience` epochs than before them."""

    name: Literal["patient"]
    patience: int | None = Field(default=None, ge=1)
    """Default: a fifth of the epochs, at least 1."""
    min_delta: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """By how much the score must have fallen behind."""

    def resolved(self, epochs: int) -> Self:
        patience = max(1, epochs // 5) if self.patience is None else self.patience
        # Optuna compares the last patience + 1 scores with those before them.
        if patience + 2 >= epochs:
            raise PrunerError(
                f"pruner.patience={patience} of training.epochs={epochs}; a trial would be over before it is lost: "
                + (f"take 1 to {epochs - 3}." if epochs > 3 else "take more epochs.")
            )
        return super().resolved(epochs).model_copy(update={"patience": patience})

    def optuna_pruner(self) -> BasePruner:
        from optuna.pruners import PatientPruner as Patient

        return Patient(None, patience=self.patience or 1, min_delta=self.min_delta)


class ThresholdPruner(EpochPruner):
    """Stops a trial whose score is below `lower`: by default, one whose network has learned nothing."""

    name: Literal["threshold"]
    lower: float = Field(default=0.01, gt=0.0, lt=1.0)

    def optuna_pruner(self) -> BasePruner:
        from optuna.pruners import ThresholdPruner as Threshold

        return Threshold(lower=self.lower)


class RungPruner(_Pruner):
    """One that compares trials at certain epochs, its rungs, and lets the best 1 / factor of each go on."""

    factor: int = Field(default=3, ge=2)
    min_epochs: int | None = Field(default=None, ge=1)
    """Done at the first rung; each further one is after `factor` times as many. Default: so that there are three."""
    rungs: tuple[int, ...] | None = None
    """Epochs done at each rung, in place of min_epochs."""

    def resolved(self, epochs: int) -> Self:
        """With a value for every option.

        Raises:
            PrunerError: No such rungs.
        """
        self._checked(epochs)
        rungs = self._checked_rungs(epochs)
        return self.model_copy(update={"rungs": rungs, "min_epochs": rungs[0]})

    def _checked_rungs(self, epochs: int) -> tuple[int, ...]:
        if self.rungs is None:
            first = default_first_rung(self.factor, epochs) if self.min_epochs is None else self.min_epochs
            if first >= epochs:
                raise PrunerError(f"pruner.min_epochs={first} of training.epochs={epochs}; take 1 to {epochs - 1}.")
            return default_rungs(first, self.factor, epochs)
        rungs = list(self.rungs)
        if not rungs or rungs != sorted(set(rungs)) or rungs[0] < 1 or rungs[-1] >= epochs:
            raise PrunerError(
                f"pruner.rungs={rungs} of training.epochs={epochs}; they are numbers of epochs, each larger than the "
                f"one before, from 1 to {epochs - 1}."
            )
        if self.min_epochs not in (None, rungs[0]):
            raise PrunerError(f"pruner.rungs={rungs} and pruner.min_epochs={self.min_epochs}; leave one of them out.")
        return self.rungs

    def bracket_of(self, seed: int, trial_number: int) -> int:
        """By the number alone: the same after any resume."""
        return 0

    def rungs_of(self, bracket: int) -> tuple[int, ...]:
        """Epochs done at each rung of a bracket. Once resolved."""
        return (self.rungs or ())[bracket:]


class AshaPruner(RungPruner):
    """Asynchronous successive halving; with `promotes`, as its paper has it: trials wait at their rung."""

    name: Literal["asha"]
    promotes: bool = False
    """Whether a trial that is not among the best is held with its checkpoint, and may be promoted later."""


class HyperbandPruner(RungPruner):
    """Several brackets of successive halving, each of which begins a rung later. A trial's number says which is its."""

    name: Literal["hyperband"]
    brackets: int | None = Field(default=None, ge=1)
    """Default: one for each rung."""

    def resolved(self, epochs: int) -> Self:
        resolved = super().resolved(epochs)
        count = len(resolved.rungs or ())
        brackets = count if self.brackets is None else self.brackets
        if brackets > count:
            raise PrunerError(
                f"pruner.brackets={brackets} with rungs at {', '.join(map(str, resolved.rungs or ()))} epochs; each "
                f"bracket needs a rung to begin at: take 1 to {count}."
            )
        return resolved.model_copy(update={"brackets": brackets})

    def bracket_of(self, seed: int, trial_number: int) -> int:
        sizes = bracket_sizes(self.brackets or 1, self.factor)
        return bracket_of(derive_seed(seed, trial_number, "bracket"), sizes)


AnyPruner = NoPruner | MedianPruner | PercentilePruner | HyperbandPruner | AshaPruner | PatientPruner | ThresholdPruner
PrunerTable = Annotated[AnyPruner, Field(discriminator="name")]
PRUNERS: dict[str, type[BaseModel]] = {
    "none": NoPruner,
    "median": MedianPruner,
    "percentile": PercentilePruner,
    "hyperband": HyperbandPruner,
    "asha": AshaPruner,
    "patient": PatientPruner,
    "threshold": ThresholdPruner,
}
