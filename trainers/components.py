"""Models, datasets, optimizers and batch policies, found by the name of their file.

A component is a file trainers/KIND/NAME.py with one function `build`. Its positional parameters are what the
trainer hands in; its keyword-only parameters are the options that a config may set.
"""

from __future__ import annotations

import importlib
from typing import Any

from storage.records import ComponentSpec


class ComponentError(ValueError):
    """A component does not exist, or refuses the options that it was given."""


def build(kind: str, spec: ComponentSpec, *provided: Any) -> Any:
    """Build the component that `spec` names.

    Args:
        kind: Folder under trainers/: models, datasets, optimizers or batch_policies.
        provided: What the trainer hands to every component of this kind.

    Raises:
        ComponentError: No such file, or an option that `build` does not take.
    """
    module_name = f"trainers.{kind}.{spec.name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ComponentError(f"there is no {spec.name!r} among the {kind}: trainers/{kind}/{spec.name}.py.") from error
    try:
        return module.build(*provided, **spec.options)
    except TypeError as error:
        # Only the call itself: a TypeError from inside build() is a bug there and keeps its traceback.
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise ComponentError(f"{kind}/{spec.name} does not take these options: {error}.") from error
        raise
