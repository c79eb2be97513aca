"""`TABLE.KEY=VALUE` on a command line, over what a TOML file says."""

from __future__ import annotations

import tomllib
from typing import Any

from cluster.toml_tables import TablesError, parse_toml


class OverrideError(ValueError):
    """An override cannot be read, or goes into a value. Its value is not repeated: it may be a secret."""


def apply_override(tables: dict[str, Any], override: str) -> None:
    """Set one value, or a whole table written inline; text that is no TOML value is taken as a string.

    Raises:
        OverrideError: With what is wrong.
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip().split(".")[-1]:
        raise OverrideError(f"{key!r} sets nothing; write it as TABLE.KEY=VALUE, for example training.epochs=10.")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except TablesError as error:
        raise OverrideError(f"{key}: {error}.") from error
    set_value(tables, key.strip(), value)


def set_value(tables: dict[str, Any], key: str, value: Any) -> None:
    """Set one value by its key, TABLE.KEY.

    Raises:
        OverrideError: It goes into a value.
    """
    *parents, last = key.split(".")
    for parent in parents:
        tables = tables.setdefault(parent, {})
        if not isinstance(tables, dict):
            raise OverrideError(f"{key}: {parent} is a value, not a table.")
    tables[last] = value
