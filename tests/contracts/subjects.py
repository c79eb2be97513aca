"""What the contract tests are run with: all bundled components, or one of somebody's own."""

from __future__ import annotations

from typing import Any

from storage.protocol.records import ComponentSpec
from study.catalog import component_names

_own: dict[str, ComponentSpec] = {}


def choose(kind: str, spec: ComponentSpec) -> None:
    """Have the tests of a kind run with this component alone. Before they are imported."""
    _own[kind] = spec


def names(kind: str) -> list[str]:
    return [_own[kind].name] if kind in _own else component_names(kind)


def is_own(name: str) -> bool:
    return any(spec.name == name for spec in _own.values())


def options_of(name: str) -> dict[str, Any]:
    """Those that a person has given with a component; none for a bundled one."""
    return next((spec.options for spec in _own.values() if spec.name == name), {})
