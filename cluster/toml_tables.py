"""What a config and a site have in common: TOML, and which texts it may hold."""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Iterator
from typing import Any

# Nothing here needs more than four.
_MAX_DEPTH = 32
# Control characters, and Unicode's own ends of lines and paragraphs.
_REFUSED = ("Cc", "Zl", "Zp")


class TablesError(ValueError):
    """Tables hold what none may. The value is not repeated: it may be a secret."""


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises:
        tomllib.TOMLDecodeError: It is not TOML.
        TablesError: It is nested more deeply than anything that is meant.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise TablesError("its values are nested too deeply") from None


def check_tables(tables: dict[str, Any]) -> None:
    """Refuse keys and texts with control characters, at any depth.

    Names and paths become lines of job scripts and of logs, where a line break would start a line of its own.

    Raises:
        TablesError: With the place of the first one.
    """
    for place, text in _texts(tables, "", 0):
        check_text(text, place)


def check_text(text: str, place: str) -> None:
    """Refuse a control character.

    Raises:
        TablesError: With the character and `place`.
    """
    for character in text:
        if unicodedata.category(character) in _REFUSED:
            raise TablesError(f"{place} contains the control character {character!r}; remove it")


def _texts(value: Any, place: str, depth: int) -> Iterator[tuple[str, str]]:
    """Every text, and where it stands."""
    if depth > _MAX_DEPTH:
        raise TablesError(f"{place[:80]} is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"the key {key!r}", key
            yield from _texts(inner, f"{place}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{index}]", depth + 1)
