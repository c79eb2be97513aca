"""Which components there are and which options each takes, read from their source: none is imported.

The driver must answer in a second and run where TensorFlow is not installed. What cannot be read, of a component that
is named by its import path, the preflight finds out.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from storage.protocol.import_path import ImportPath, ImportPathError
from storage.protocol.records import KINDS, Kind
from study.own_code import CodeFolders, OwnCodeError

_TRAINERS = Path(__file__).resolve().parent.parent / "trainers"


class CatalogError(ValueError):
    """A config names a component or an option that does not exist. The message lists those that do."""


@dataclass(frozen=True)
class Options:
    """What a component's function takes from a config."""

    required: frozenset[str]
    optional: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return self.required | self.optional


def component_names(kind: str) -> list[str]:
    """The names of all bundled components of a kind (a key of KINDS)."""
    folder = _TRAINERS / KINDS[kind].folder
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def options_of(kind: str, name: str) -> Options | None:
    """The options of a component; None where its source does not tell them.

    Raises:
        CatalogError: There is no component of this name.
    """
    file, function = _find(kind, name)
    if file is None:
        return None
    found = _read_options(file, function, KINDS[kind])
    if found is None and ":" not in name:
        raise CatalogError(f"{file} has no function build(...); every component needs one.")
    return found


def check_options(kind: str, name: str, given: frozenset[str]) -> None:
    """Check the names of the options that a config and its search space give to a component.

    Raises:
        CatalogError: An option that it does not take, or one missing.
    """
    options = options_of(kind, name)
    if options is None:
        return
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
    file, _ = _find("dataset", dataset)
    for node in [] if file is None else _parse(file).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="TASK")], value=ast.Constant(value=str() as task)):
                return task
    return "multi_label"


def _find(kind: str, name: str) -> tuple[Path | None, str]:
    """The file with a component's source, where that can be told, and the name of its function."""
    try:
        if (path := ImportPath.parse(name)) is not None:
            return CodeFolders.here().file_of(path), path.attribute
    except (ImportPathError, OwnCodeError) as error:
        raise CatalogError(f"{kind}.name={error}") from error
    folder = KINDS[kind].folder
    if name not in component_names(kind):
        raise CatalogError(
            f"{kind}.name={name!r} does not exist; choose one of {', '.join(component_names(kind))}, add "
            f"trainers/{folder}/{name}.py, or name a function of a package of yours, as in 'mypackage.mymodule:{name}'."
        )
    return _TRAINERS / folder / f"{name}.py", "build"


@cache
def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, ValueError) as error:
        place = f"{path}, line {error.lineno}" if isinstance(error, SyntaxError) else str(path)
        raise CatalogError(f"{place}: this is not Python: {error}.") from error


def _read_options(path: Path, function: str, kind: Kind) -> Options | None:
    """None where the file has no such function, or one whose parameters it does not spell out."""
    for node in _parse(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == function and not node.decorator_list:
            return None if node.args.vararg or node.args.kwarg else _options_of_function(node.args, kind)
    return None


def _options_of_function(arguments: ast.arguments, kind: Kind) -> Options:
    """Those of its parameters that the trainer does not hand in."""
    by_position = [*arguments.posonlyargs, *arguments.args]
    has_default = {argument.arg: False for argument in by_position}
    has_default |= dict.fromkeys(list(has_default)[len(has_default) - len(arguments.defaults) :], True)
    options = {argument.arg: has_default[argument.arg] for argument in arguments.args}
    options = dict(list(options.items())[max(0, len(kind.given) - len(arguments.posonlyargs)) :])
    options |= {
        argument.arg: default is not None
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }
    return Options(
        required=frozenset(name for name, is_optional in options.items() if not is_optional),
        optional=frozenset(name for name, is_optional in options.items() if is_optional),
    )
