"""Models, data sets, optimizers and the other kinds of components, found by the name of their file.

A component is a file trainers/KIND/NAME.py with one function `build`. Its positional parameters are what the
trainer hands in; its keyword-only parameters are the options that a config may set.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from storage.protocol.records import ComponentSpec


class ComponentError(ValueError):
    """A component does not exist, or refuses the options that it was given."""


def build(kind: str, spec: ComponentSpec, *provided: Any) -> Any:
    """Build the component that `spec` names.

    Args:
        kind: Folder under trainers/: models, datasets, optimizers, ...
        provided: What the trainer hands to every component of this kind.

    Raises:
        ComponentError: No such file, an option that `build` does not take or not of this type, or one is missing.
    """
    names = component_names(kind)
    if spec.name not in names:
        raise ComponentError(
            f"there is no {spec.name!r} among the {kind}; choose one of {', '.join(names)} or add "
            f"trainers/{kind}/{spec.name}.py."
        )
    build = importlib.import_module(f"trainers.{kind}.{spec.name}").build
    _check_options(f"{kind}/{spec.name}", build, spec.options)
    return build(*provided, **spec.options)


def component_names(kind: str) -> list[str]:
    """The names of all components of a kind."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / kind)]))


def _check_options(component: str, build: Callable[..., Any], given: Mapping[str, Any]) -> None:
    signature = inspect.signature(build)
    parameters = {p.name: p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    if unknown := sorted(set(given) - set(parameters)):
        raise ComponentError(f"{component} takes no option {', '.join(unknown)}; it takes {', '.join(parameters)}.")
    required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    if missing := sorted(required - set(given)):
        raise ComponentError(f"{component} needs {', '.join(missing)}.")
    # The options' only: a component may postpone the import of what its other annotations name.
    options = SimpleNamespace(__annotations__={name: parameters[name].annotation for name in given})
    types = get_type_hints(options, inspect.unwrap(build).__globals__)
    for name, value in given.items():
        # A number in quotes and the like would fail later and less clearly.
        if not _is_of(types[name], value):
            raise ComponentError(
                f"{component}: {name}={value!r}; it must be of type {inspect.formatannotation(types[name])}."
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
