"""Components of every kind, found by the name of their file or by their import path.

A bundled component is a file trainers/KIND/NAME.py with one function `build`; one of somebody's own is any function,
named as `package.module:function`. Its first positional parameters are what the trainer hands in; all others are the
options that a config may set. docs/components.md is the contract of each kind.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from storage.protocol.import_path import ImportPath, ImportPathError
from storage.protocol.records import KINDS, ComponentSpec, Kind

_OF_KERAS = ("models", "optimizers")
# What code raises that is wrong; a ValueError is for the component to say, and the rest for the machine.
_WRONG_CODE = (TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError, ImportError)


class ComponentError(ValueError):
    """A component does not exist, or refuses the options that it was given."""


class ComponentMissingError(ComponentError):
    """A package that was there when the study began is not where this process looks for it."""


def build(kind: str, spec: ComponentSpec, *provided: Any) -> Any:
    """Build the component that `spec` names.

    Args:
        kind: Folder under trainers/: models, datasets, optimizers, ...
        provided: What the trainer hands to every component of this kind.

    Raises:
        ComponentError: There is no such component, an option that it does not take or not of this type, one is
            missing, or its code is wrong.
    """
    function = _find(kind, spec.name)
    label = spec.name if ":" in spec.name else f"{kind}/{spec.name}"
    _check_options(label, function, spec.options, _kind_of(kind))
    try:
        return function(*provided, **spec.options)
    except _WRONG_CODE as error:
        raise ComponentError(f"{label} cannot be built: {_described(error, function)}.") from error


def component_names(kind: str) -> list[str]:
    """The names of all bundled components of a kind."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / kind)]))


def _kind_of(folder: str) -> Kind:
    return next(kind for kind in KINDS.values() if kind.folder == folder)


def _find(kind: str, name: str) -> Callable[..., Any]:
    try:
        path = ImportPath.parse(name)
    except ImportPathError as error:
        raise ComponentError(str(error)) from error
    if path is not None:
        function = _import(path)
        return _adapted(kind, function) if kind in _OF_KERAS else function
    names = component_names(kind)
    if name not in names:
        raise ComponentError(
            f"there is no {name!r} among the {kind}; choose one of {', '.join(names)} or add trainers/{kind}/{name}.py."
        )
    return _import(ImportPath(f"trainers.{kind}.{name}", "build"))


def _adapted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # Keras takes seconds to import; data sets and batch policies are checked without it.
    from trainers import keras_components

    return keras_components.adapted(kind, function)


def _import(path: ImportPath) -> Callable[..., Any]:
    try:
        module = importlib.import_module(path.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path.module}.".startswith(f"{error.name}."):
            raise ComponentError(f"{path.module} cannot be imported: {_described(error)}.") from error
        if error.name != path.package:
            raise ComponentError(f"{str(path)!r}: there is no module {error.name!r}.") from error
        raise ComponentMissingError(
            f"{str(path)!r}: there is no package {path.package!r} on this node; it must be installed, or lie in a "
            f"folder that all nodes share. Looked for in {', '.join(filter(None, sys.path))}."
        ) from error
    except SyntaxError as error:
        raise ComponentError(f"{error.filename}, line {error.lineno}: this is not Python: {error.msg}.") from error
    except (OSError, MemoryError):
        raise
    # Whatever a module of somebody's own does when it is imported.
    except Exception as error:
        raise ComponentError(f"{path.module} cannot be imported: {_described(error)}.") from error
    function = getattr(module, path.attribute, None)
    if function is None:
        known = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
        raise ComponentError(
            f"{path.module} ({module.__file__}) has no {path.attribute!r}; it has {', '.join(known) or 'no function'}."
        )
    if not callable(function):
        raise ComponentError(f"{path} is {function!r}, and not a function.")
    return function


def _described(error: Exception, function: Callable[..., Any] | None = None) -> str:
    """The error, and the line in the component's own code where it came up, or the last one if that cannot be told."""
    frames = traceback.extract_tb(error.__traceback__)
    folder = Path(inspect.getsourcefile(inspect.unwrap(function)) or "").parent if function is not None else None
    own = [frame for frame in frames if folder is not None and folder in Path(frame.filename).parents]
    place = (own or frames)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def _check_options(component: str, function: Callable[..., Any], given: Mapping[str, Any], kind: Kind) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise ComponentError(f"{component} does not say which parameters it takes: {error}.") from error
    handed_in, parameters, takes_any = _split_parameters(signature, len(kind.given))
    if handed_in != len(kind.given):
        wanted = f"({', '.join(kind.given)}) by position" if kind.given else "no positional parameter"
        raise ComponentError(f"{component}{signature} must take {wanted}, and its options by keyword.")
    if (unknown := sorted(set(given) - set(parameters))) and not takes_any:
        raise ComponentError(
            f"{component} takes no option {', '.join(unknown)}; it takes {', '.join(parameters) or 'none'}."
        )
    required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    if missing := sorted(required - set(given)):
        raise ComponentError(f"{component} needs {', '.join(missing)}.")
    _check_types(component, function, parameters, given)


def _split_parameters(signature: inspect.Signature, count: int) -> tuple[int, dict[str, inspect.Parameter], bool]:
    """How many of `count` values can be handed in by position, which options are left, and whether it takes others."""
    of_kind: dict[Any, list[inspect.Parameter]] = {}
    for parameter in signature.parameters.values():
        of_kind.setdefault(parameter.kind, []).append(parameter)
    positional = [
        *of_kind.get(inspect.Parameter.POSITIONAL_ONLY, []),
        *of_kind.get(inspect.Parameter.POSITIONAL_OR_KEYWORD, []),
    ]
    rest = [p for p in positional[count:] if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    options = {p.name: p for p in [*rest, *of_kind.get(inspect.Parameter.KEYWORD_ONLY, [])]}
    handed_in = count if inspect.Parameter.VAR_POSITIONAL in of_kind else min(count, len(positional))
    return handed_in, options, inspect.Parameter.VAR_KEYWORD in of_kind


def _check_types(
    component: str, function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> None:
    # The options' only: a component may postpone the import of what its other annotations name.
    annotations = {name: parameters[name].annotation for name in given if name in parameters}
    annotations = {name: kind for name, kind in annotations.items() if kind is not inspect.Parameter.empty}
    module = sys.modules.get(inspect.unwrap(function).__module__)
    try:
        types = get_type_hints(SimpleNamespace(__annotations__=annotations), vars(module) if module else {})
    except (NameError, AttributeError, TypeError):
        # An annotation of somebody's own that only a type checker can read.
        return
    for name, wanted in types.items():
        # A number in quotes and the like would fail later and less clearly.
        if not _is_of(wanted, given[name]):
            raise ComponentError(
                f"{component}: {name}={given[name]!r}; it must be of type {inspect.formatannotation(wanted)}."
            )


def _is_of(wanted: Any, value: Any) -> bool:
    """Whether a JSON value is of a type; kinds of types that are not named here are the component's to check."""
    origin, arguments = get_origin(wanted) or wanted, get_args(wanted)
    if origin in (Union, UnionType):
        return any(_is_of(one, value) for one in arguments)
    if origin is Literal:
        # True == 1, but is not a number in a config.
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is float:
        return type(value) in (int, float)
    if origin is list:
        return type(value) is list and all(_is_of(one, item) for one in arguments for item in value)
    if origin is dict:
        return type(value) is dict and all(_is_of(one, item) for one in arguments[1:] for item in value.values())
    return origin not in (bool, int, str, NoneType) or type(value) is origin
