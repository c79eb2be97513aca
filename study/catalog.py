"""Which components there are and which options each takes, read from their source: nothing of trainers is imported.

The driver must answer in a second and run where TensorFlow is not installed.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TRAINERS = Path(__file__).resolve().parent.parent / "trainers"

KINDS = {
    "model": "models",
    "dataset": "datasets",
    "task": "tasks",
    "optimizer": "optimizers",
    "learning_rate": "learning_rates",
    "batch_policy": "batch_policies",
}
"""From a component's table in a config to its folder under trainers/."""


class CatalogError(ValueError):
    """A config names a component or an option that does not exist. The message lists those that do."""


@dataclass(frozen=True)
class Options:
    """What a component's `build` takes from a config: its keyword-only parameters."""

    required: frozenset[str]
    optional: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return self.required | self.optional


def component_names(kind: str) -> list[str]:
    """The names of all components of a kind (a key of KINDS)."""
    return sorted(path.stem for path in (_TRAINERS / KINDS[kind]).glob("*.py") if not path.stem.startswith("_"))


def options_of(kind: str, name: str) -> Options:
    """The options of a component.

    Raises:
        CatalogError: There is no component of this name.
    """
    if name not in component_names(kind):
        raise CatalogError(
            f"{kind}.name={name!r} does not exist; choose one of {', '.join(component_names(kind))} or add "
            f"trainers/{KINDS[kind]}/{name}.py."
        )
    return _read_options(_TRAINERS / KINDS[kind] / f"{name}.py")


def check_options(kind: str, name: str, given: frozenset[str]) -> None:
    """Check the names of the options that a config and its search space give to a component.

    Raises:
        CatalogError: An option that it does not take, or one missing.
    """
    options = options_of(kind, name)
    if unknown := given - options.names:
        raise CatalogError(
            f"{kind} {name!r} takes no option {', '.join(sorted(unknown))}; it takes "
            f"{', '.join(sorted(options.names)) or 'none'}."
        )
    if missing := options.required - given:
        raise CatalogError(
            f"{kind} {name!r} needs {', '.join(sorted(missing))}: set it under [{kind}] or in [search_space.{kind}]."
        )


def default_task(dataset: str) -> str:
    """The task that a data set names in its file, as `TASK = "single_label"`; multi_label where it names none.

    Raises:
        CatalogError: There is no data set of this name.
    """
    options_of("dataset", dataset)
    for node in _parse(_TRAINERS / KINDS["dataset"] / f"{dataset}.py").body:
        match node:
            case ast.Assign(targets=[ast.Name(id="TASK")], value=ast.Constant(value=str() as task)):
                return task
    return "multi_label"


@cache
def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, ValueError) as error:
        place = f"{path}, line {error.lineno}" if isinstance(error, SyntaxError) else str(path)
        raise CatalogError(f"{place}: this is not Python: {error}.") from error


def _read_options(path: Path) -> Options:
    for node in _parse(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == "build":
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            defaults = {argument.arg: default is not None for argument, default in pairs}
            return Options(
                required=frozenset(name for name, has_default in defaults.items() if not has_default),
                optional=frozenset(name for name, has_default in defaults.items() if has_default),
            )
    raise CatalogError(f"{path} has no function build(...); every component needs one.")
