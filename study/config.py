"""A study's config: TOML in, frozen and checked values out."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.overrides import OverrideError, apply_override, set_value
from cluster.toml_tables import TablesError, check_tables, parse_toml
from storage.protocol.codec import to_plain
from storage.protocol.import_path import ImportPath
from storage.protocol.records import KINDS, SCORES, ComponentSpec, MovingStatistics, ObjectiveEpoch, Precision
from study import catalog
from study.budget import BudgetSettings
from study.notify import StudyEnd
from study.objectives import ENERGY, FURTHER_OBJECTIVES, Constraint, Objective
from study.pruners import PRUNERS, NoPruner, PrunerError, PrunerTable
from study.resources import ResourcesError, ResourceSettings
from study.search_space import PARAMETER_TYPES, Scalar, SearchSpace

CONFIGS_DIR = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A config is missing, malformed or impossible. The message says which value and what to do."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudySettings(_Table):
    """What is searched, how long and how."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the study in the database, and of its folder under runs_dir."""
    trials: int = Field(ge=1)
    """Configurations in all, those of earlier runs included; one trial each, if repeats does not say otherwise."""
    repeats: int = Field(default=1, ge=1)
    """Trials of each configuration, one after the other, each with a seed of its own."""
    objective: Literal[SCORES] = "f1_micro"  # type: ignore[valid-type]  # the names are in one place
    """Validation score, maximised. Pruners, the best epoch and the best trial go by it alone."""
    objectives: tuple[str, ...] = ()
    """Several, the objective first; then scores, and with a minus before it what is to be low: node_hours, wall_s,
    val_loss, and energy_kwh where it is measured."""
    constraint: str | None = None
    """What a trial must keep to, such as node_hours <= 40: a trial that breaks it is not the best one. Samplers that
    learn keep away from it."""
    objective_epoch: ObjectiveEpoch = ObjectiveEpoch.LAST
    """The epoch whose score is a trial's value and whose weights are its network: the last one or the best one. The
    best of many scores is chosen by the validation split, and lies above what a test split would give."""
    sampler: str = "random"
    warm_start: tuple[str, ...] = ()
    """Studies of the same search space, from whose completed trials the sampler learns as from its own: each STUDY or
    STUDY@URL, a database without password. No part of what a study is."""
    replay: str | None = None
    """A study, as STUDY or STUDY@URL, whose configurations come first, trial by trial. What it has no more of is
    sampled."""
    configurations: tuple[dict[str, Scalar], ...] = ()
    """Values of all sampled parameters, taken in turn and over again in place of the sampler's."""
    test_split: bool = False
    """Whether each completed trial's network is scored on the test split, too. Only with configurations: where
    something is searched, the test split would be used to choose."""
    seed: int = Field(default=0, ge=0)
    storage: str | None = None
    """Database URL without password; default: sqlite in the study's folder."""
    runs_dir: Path = Path("runs")
    """On a cluster: on a file system that the compute nodes share."""
    cache_dir: Path = Path("runs/cache")
    """Where decoded data sets are kept; as runs_dir."""
    crash_retries: int = Field(default=1, ge=0)
    """Attempts after a crash, per trial; interruptions do not count."""
    interruption_retries: int = Field(default=2, ge=0)
    """Interruptions in a row without a further epoch, per trial, before the one that gives it up."""

    @model_validator(mode="before")
    @classmethod
    def _the_first_is_the_objective(cls, tables: Any) -> Any:
        if not isinstance(tables, dict) or not isinstance(objectives := tables.get("objectives"), list | tuple):
            return tables
        return {"objective": objectives[0], **tables} if objectives else tables

    @model_validator(mode="after")
    def _objectives_and_constraint_are_known(self) -> StudySettings:
        first, *further = self.objectives or (self.objective,)
        if first != self.objective:
            raise ValueError(f"objectives begin with {first!r}, and objective={self.objective!r}; leave objective out")
        if unknown := [name for name in further if name not in FURTHER_OBJECTIVES]:
            raise ValueError(
                f"objectives: {unknown[0]!r} cannot stand beside {first!r}; it must be one of "
                f"{', '.join(FURTHER_OBJECTIVES)}"
            )
        if len({name.removeprefix("-") for name in self.objectives}) < len(self.objectives):
            raise ValueError(f"objectives name one thing twice: {', '.join(self.objectives)}")
        if self.constraint is not None:
            try:
                Constraint.parse(self.constraint)
            except ValueError as error:
                raise ValueError(f"constraint={self.constraint!r}: {error}") from error
        return self

    @property
    def total_trials(self) -> int:
        return self.trials * self.repeats

    @property
    def limit(self) -> Constraint | None:
        """The constraint, read."""
        return None if self.constraint is None else Constraint.parse(self.constraint)

    @property
    def goals(self) -> tuple[Objective, ...]:
        """All that is optimised, the objective first."""
        return tuple(Objective.parse(name) for name in self.objectives or (self.objective,))

    @property
    def needs_energy(self) -> bool:
        """Whether a trial whose energy is not measured is of no use."""
        named = [goal.name for goal in self.goals] + ([] if self.limit is None else [self.limit.name])
        return ENERGY in named


class TrainingSettings(_Table):
    """How each trial trains."""

    epochs: int = Field(ge=1)
    loader_batch_size: int = Field(ge=1)
    """Samples per rank that the input pipeline hands over at once."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better score of the objective after which a trial ends; without it, the last one ends it."""
    checkpoint_every_epochs: int = Field(default=1, ge=1)
    accumulation_steps: int = Field(default=1, ge=1)
    """Parts into which each rank cuts its largest batch, for one that does not fit into its memory: their gradients are
    averaged into one update. Smaller batches are cut into parts as large, or not at all."""
    precision: Precision = Precision.FLOAT32
    """In what the model computes: float32, tf32 (on GPUs that know it) or bfloat16."""
    jit: bool = False
    """Have XLA compile the model and its gradient; the reduction over the ranks stays outside. What is compiled is kept
    in cache_dir, for all ranks and trials."""
    moving_statistics: MovingStatistics = MovingStatistics.MOVING
    """With what batch normalisation evaluates: a moving average over the updates, the same with a momentum that knows
    the batch size (scaled), or the mean over training samples, computed anew before each evaluation (recalibrated)."""
    deterministic: bool = False


class NotifySettings(_Table):
    """Who is told, the environment says."""

    on: tuple[StudyEnd, ...] = tuple(StudyEnd)


class Component(BaseModel):
    """`name` is a file's name or an import path; everything else in the table is an option of its function."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class StudyConfig(_Table):
    """All that defines a study: settings, a component of each of KINDS, and what is sampled."""

    study: StudySettings
    training: TrainingSettings
    model: Component
    dataset: Component
    task: Component
    """By default the one that the data set names."""
    optimizer: Component
    learning_rate: Component = Component(name="constant")
    batch_policy: Component
    search_space: SearchSpace
    pruner: PrunerTable = NoPruner()
    """What stops trials that are worse than others, before their last epoch."""
    resources: ResourceSettings = ResourceSettings()
    """What the trials that are promoted have more of."""
    enqueue: tuple[dict[str, Scalar], ...] = ()
    """Values of sampled parameters for the first configurations; the sampler gives those that one leaves out."""
    budget: BudgetSettings = BudgetSettings()
    """What ends the study beside its number of trials. May be raised, or lowered, from one run to the next."""
    notify: NotifySettings = NotifySettings()

    @classmethod
    def from_file(cls, path: Path | str, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
        """Read a config file, with other values for some of its keys: {"training.epochs": 10}.

        Raises:
            ConfigError: See `load_config`.
        """
        tables = _read_toml(Path(path))
        try:
            for key, value in (overrides or {}).items():
                set_value(tables, key, value)
        except OverrideError as error:
            raise ConfigError(str(error)) from error
        return cls.from_tables(tables, str(path))

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], where: str = "the config") -> StudyConfig:
        """A config from the tables that its file would have.

        Args:
            where: They come from, for errors.

        Raises:
            ConfigError: See `load_config`.
        """
        return parse_config(to_plain(tables), where)

    def component_specs(self, sampled: dict[str, Any]) -> dict[str, ComponentSpec]:
        """Each kind's component with its fixed and its sampled options."""
        return {
            kind: ComponentSpec(
                (component := getattr(self, kind)).name,
                {**component.options, **self.search_space.options_for(kind, sampled)},
            )
            for kind in KINDS
        }

    def own_components(self) -> list[ImportPath]:
        """The components that are not bundled."""
        names = [getattr(self, kind).name for kind in KINDS]
        return [path for name in names if (path := ImportPath.parse(name)) is not None]

    def ends_to_tell(self) -> tuple[StudyEnd, ...] | None:
        """The ends of which the config wants people told; None if it says nothing of that."""
        return self.notify.on if "notify" in self.model_fields_set else None

    def identity(self) -> dict[str, Any]:
        """What must not change between two runs of one study, or its trials would not compare."""
        study = self.study.model_dump(mode="json", include=_IDENTITY_OF_STUDY)
        rest = self.model_dump(
            mode="json",
            exclude={
                "study": True,
                "training": {"checkpoint_every_epochs"},
                "pruner": True,
                "budget": True,
                "notify": True,
            },
        )
        # With its defaults: a config may say them or not.
        pruner = self.pruner.resolved(self.training.epochs).model_dump(mode="json")
        return {"study": study, **rest, "pruner": pruner}

    @classmethod
    def identity_defaults(cls) -> dict[str, Any]:
        """The defaults of what `identity` gives: the values of studies that are older than a key."""
        return {
            "study": _defaults_of(StudySettings),
            "training": _defaults_of(TrainingSettings),
            # The only task there was.
            "task": {"name": "multi_label"},
            "learning_rate": {"name": "constant"},
            "pruner": {"name": "none"},
            "resources": ResourceSettings().model_dump(mode="json"),
            "enqueue": [],
        }


_IDENTITY_OF_STUDY = {
    "objective",
    "objectives",
    "constraint",
    "objective_epoch",
    "sampler",
    "seed",
    "repeats",
    "replay",
    "configurations",
    "test_split",
}


def _defaults_of(table: type[BaseModel]) -> dict[str, Any]:
    # As JSON has them, which knows no tuples.
    defaults = {name: field.default for name, field in table.model_fields.items() if not field.is_required()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def load_config(path: Path, overrides: list[str]) -> StudyConfig:
    """Read a config and apply the command line's `TABLE.KEY=VALUE` to it.

    Raises:
        ConfigError: No such file, not TOML, a control character, an unknown or impossible value, an unknown component
            or option.
    """
    tables = _read_toml(path)
    try:
        for override in overrides:
            apply_override(tables, override)
    except OverrideError as error:
        raise ConfigError(f"--set {error}") from error
    return parse_config(tables, str(path))


def parse_config(tables: dict[str, Any], path: str) -> StudyConfig:
    """Check a config's tables.

    Args:
        path: Where they come from, for errors.

    Raises:
        ConfigError: A control character, an unknown or impossible value, an unknown component or option.
    """
    try:
        check_tables(tables)
        config = StudyConfig.model_validate(_with_task(tables))
    except TablesError as error:
        raise ConfigError(f"{path}: {error}.") from error
    except catalog.CatalogError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "\n  ".join(_describe(e) for e in error.errors())) from error
    for kind in KINDS:
        component: Component = getattr(config, kind)
        sampled = getattr(config.search_space, kind)
        if both := sorted(set(component.options) & set(sampled)):
            raise ConfigError(f"{path}: {both[0]} is both fixed under [{kind}] and sampled; remove one of the two.")
        try:
            catalog.check_options(kind, component.name, frozenset(component.options) | frozenset(sampled))
        except catalog.CatalogError as error:
            raise ConfigError(f"{path}: {error}") from error
    _check_configurations(config, path)
    _check_enqueued(config, path)
    try:
        config.resources.require_rungs(config.pruner.resolved(config.training.epochs))
    except (PrunerError, ResourcesError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _check_configurations(config: StudyConfig, path: str) -> None:
    if config.study.test_split and not config.study.configurations:
        raise ConfigError(
            f"{path}: study.test_split=true in a search would let the test split choose; leave it out: "
            "study/evaluate.py scores the best configurations on it, once."
        )
    if config.study.replay is not None and config.study.configurations:
        raise ConfigError(f"{path}: study.replay and study.configurations; leave one of them out.")
    parameters = config.search_space.parameters()
    for number, configuration in enumerate(config.study.configurations):
        where = f"{path}: study.configurations[{number}]"
        if wrong := sorted(parameters.keys() ^ configuration.keys()):
            known = "lacks" if wrong[0] in parameters else "has"
            raise ConfigError(
                f"{where} {known} {wrong[0]}; the search space's parameters are {', '.join(sorted(parameters))}."
            )
        _check_values(configuration, parameters, where)


def _check_enqueued(config: StudyConfig, path: str) -> None:
    if config.enqueue and config.study.configurations:
        raise ConfigError(f"{path}: enqueue and study.configurations; leave one of them out.")
    if len(config.enqueue) > config.study.trials:
        raise ConfigError(
            f"{path}: enqueue holds {len(config.enqueue)} configurations and study.trials={config.study.trials}; take "
            f"at least {len(config.enqueue)} trials."
        )
    parameters = config.search_space.parameters()
    for number, configuration in enumerate(config.enqueue):
        where = f"{path}: enqueue[{number}]"
        if unknown := sorted(configuration.keys() - parameters.keys()):
            raise ConfigError(
                f"{where} has {unknown[0]}; the search space's parameters are {', '.join(sorted(parameters))}."
            )
        _check_values(configuration, parameters, where)


def _check_values(configuration: dict[str, Scalar], parameters: dict[str, Any], where: str) -> None:
    for name, value in configuration.items():
        if not parameters[name].holds(value):
            raise ConfigError(f"{where}: {name}={value!r} is not in the search space: {parameters[name]}.")


def _with_task(tables: dict[str, Any]) -> dict[str, Any]:
    """With the data set's own task where the config names none. What is wrong with a table, validation says."""
    dataset, task = tables.get("dataset"), tables.get("task", {})
    if not isinstance(dataset, dict) or not isinstance(dataset.get("name"), str) or not isinstance(task, dict):
        return tables
    return {**tables, "task": {"name": catalog.default_task(dataset["name"]), **task}}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(str(p.relative_to(CONFIGS_DIR.parent.parent)) for p in CONFIGS_DIR.glob("*.toml")))
        raise ConfigError(f"there is no config {path}; bundled configs: {known}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read: {error}.") from error
    except (tomllib.TOMLDecodeError, TablesError) as error:
        raise ConfigError(f"config {path} is not valid TOML: {error}.") from error


def _describe(error: Any) -> str:
    # Inside the search space, pydantic puts the parameter's type into the location, where a config has none.
    where = ".".join(str(part) for i, part in enumerate(error["loc"]) if not _is_type_tag(error["loc"], i))
    match error["type"]:
        case "extra_forbidden":
            return f"{where} is an unknown key; valid keys are {', '.join(_valid_keys(error['loc'][:-1]))}."
        case "missing":
            return f"{where} is missing."
        case "union_tag_not_found" | "union_tag_invalid":
            key, tags = ("name", PRUNERS) if error["loc"][0] == "pruner" else ("type", PARAMETER_TYPES)
            said = " is missing" if error["type"] == "union_tag_not_found" else f"={error['ctx']['tag']!r}"
            return f"{where}.{key}{said}; it must be one of {', '.join(tags)}."
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{where} must be a table (got {error['input']!r})."
    reason = error["msg"].removeprefix("Value error, ")
    return f"{where}: {reason} (got {error['input']!r})."


def _is_type_tag(location: tuple[int | str, ...], index: int) -> bool:
    if location[0] == "pruner":
        return index == 1 and location[index] in PRUNERS
    return location[0] == "search_space" and index == 3 and location[index] in PARAMETER_TYPES


def _valid_keys(table: tuple[int | str, ...]) -> list[str]:
    model: Any = StudyConfig
    if table[:1] == ("search_space",) and len(table) > 1:
        model = PARAMETER_TYPES[str(table[3])]
    elif table[:1] == ("pruner",):
        model = PRUNERS[str(table[1])]
    elif table:
        model = StudyConfig.model_fields[str(table[0])].annotation
    return list(model.model_fields)
