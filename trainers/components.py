"""Models, datasets, optimizers and batch policies, found by the name of their file.

A component is a file trainers/KIND/NAME.py with one function `build`. Its positional parameters are what the
trainer hands in; its keyword-only parameters are the options that a config may set.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.records import ComponentSpec

# By how an annotation is written: components postpone the evaluation of theirs.
_JSON_TYPES: dict[str, set[type]] = {"int": {int}, "float": {int, float}, "bool": {bool}, "str": {str}}


class ComponentError(ValueError):
    """A component does not exist, or refuses the options that it was given."""


def build(kind: str, spec: ComponentSpec, *provided: Any) -> Any:
    """Build the component that `spec` names.

    Args:
        kind: Folder under trainers/: models, datasets, optimizers or batch_policies.
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
    _check_options(f"{kind}/{spec.name}", inspect.signature(build), spec.options)
    return build(*provided, **spec.options)


def component_names(kind: str) -> list[str]:
    """The names of all components of a kind."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / kind)]))


def _check_options(component: str, signature: inspect.Signature, given: Mapping[str, Any]) -> None:
    parameters = {p.name: p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    if unknown := sorted(set(given) - set(parameters)):
        raise ComponentError(f"{component} takes no option {', '.join(unknown)}; it takes {', '.join(parameters)}.")
    required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    if missing := sorted(required - set(given)):
        raise ComponentError(f"{component} needs {', '.join(missing)}.")
    for name, value in given.items():
        # A number in quotes and the like would fail later and less clearly.
        wanted = str(parameters[name].annotation)
        if type(value) not in _JSON_TYPES.get(wanted, {type(value)}):
            raise ComponentError(f"{component}: {name}={value!r}; it must be of type {wanted}.")
