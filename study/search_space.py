"""The search space as a config writes it, and how Optuna samples it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

Scalar = bool | int | float | str


class _Range(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _check_bounds(self) -> _Range:
        low, high = self.low, self.high  # type: ignore[attr-defined]
        if low > high:
            raise ValueError(f"low={low} is above high={high}; exchange them")
        if self.log and low <= 0:  # type: ignore[attr-defined]
            raise ValueError(f"low={low} with log=true; a logarithmic range starts above 0")
        return self


class FloatRange(_Range):
    type: Literal["float"]
    low: FiniteFloat
    high: FiniteFloat
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', log' * self.log}"

    def holds(self, value: Scalar) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)


class IntRange(_Range):
    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_step(self) -> IntRange:
        if self.log and self.step != 1:
            raise ValueError(f"step={self.step} with log=true; a logarithmic range has no step")
        return self

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{', log' * self.log}{f', step {self.step}' * (self.step > 1)}"

    def holds(self, value: Scalar) -> bool:
        return type(value) is int and value in range(self.low, self.high + 1, self.step)

    def suggest(self, trial: optuna.Trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)


class Choices(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["categorical"]
    choices: tuple[Scalar, ...] = Field(min_length=1)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.choices))

    def holds(self, value: Scalar) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.choices)


Parameter = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]
PARAMETER_TYPES: dict[str, type[BaseModel]] = {"float": FloatRange, "int": IntRange, "categorical": Choices}


class SearchSpace(BaseModel):
    """Which options of which component are sampled: one table for each of KINDS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: dict[str, Parameter] = {}
    dataset: dict[str, Parameter] = {}
    task: dict[str, Parameter] = {}
    optimizer: dict[str, Parameter] = {}
    learning_rate: dict[str, Parameter] = {}
    batch_policy: dict[str, Parameter] = {}

    @model_validator(mode="after")
    def _check_names(self) -> SearchSpace:
        """Trial parameters bear the options' bare names, in tables and in the dashboard."""
        names = [name for _, table in self for name in table]
        if not names:
            raise ValueError("it is empty; a study samples at least one parameter, for example optimizer.learning_rate")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is sampled for two components; one name means one parameter")
        return self

    def parameters(self) -> dict[str, FloatRange | IntRange | Choices]:
        """All parameters by name."""
        return {name: parameter for _, table in self for name, parameter in table.items()}

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna samples each parameter from, as trials have it."""
        # Imported here: a config is checked without Optuna, which takes seconds.
        from optuna.trial import FixedTrial

        values = {
            name: each.choices[0] if isinstance(each, Choices) else each.low for name, each in self.parameters().items()
        }
        trial = FixedTrial(values)
        for name, parameter in self.parameters().items():
            parameter.suggest(trial, name)  # type: ignore[arg-type]  # it has what is asked of it
        return trial.distributions

    def sample(self, trial: optuna.Trial) -> dict[str, Any]:
        """A value for each parameter. Those that the trial has already keep theirs."""
        return {name: parameter.suggest(trial, name) for name, parameter in self.parameters().items()}

    def options_for(self, kind: str, sampled: dict[str, Any]) -> dict[str, Any]:
        """The sampled values that go to the component of one kind."""
        return {name: sampled[name] for name in getattr(self, kind)}
