"""Records as JSON: one line out, the same record back."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

Record = TypeVar("Record")


class RecordError(ValueError):
    """A JSON document does not describe the record that was asked for."""


def to_json(record: Any) -> str:
    """The record on one line. NaN and infinity are written as JavaScript spells them, as `json` does."""
    return json.dumps(to_plain(record))


def to_plain(value: Any) -> Any:
    """The value as JSON has it: dicts, lists, strings, numbers, booleans, None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_json(kind: type[Record], text: str, *, ignore_unknown: bool = False) -> Record:
    """The record that `text` describes.

    Args:
        ignore_unknown: Pass over fields that the record does not have, which a later version of it may have written.

    Raises:
        RecordError: The text is not a JSON object, lacks a field or has one too many.
    """
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(f"{kind.__name__}: not JSON ({error}): {text[:80]!r}") from error
    return from_plain(kind, value, ignore_unknown=ignore_unknown)


def from_plain(kind: type[Record], value: Any, *, ignore_unknown: bool = False) -> Record:
    """The record that a JSON value describes. See `from_json`."""
    return _decode(kind, value, kind.__name__, ignore_unknown)


def _decode(kind: Any, value: Any, where: str, ignore_unknown: bool) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(kind, value, where, ignore_unknown)
    if origin in (list, tuple):
        item = typing.get_args(kind)[0]
        _require(list, value, where)
        return origin(_decode(item, each, f"{where}[{i}]", ignore_unknown) for i, each in enumerate(value))
    if origin in (dict, Mapping):
        item = typing.get_args(kind)[1]
        _require(dict, value, where)
        return {key: _decode(item, each, f"{where}.{key}", ignore_unknown) for key, each in value.items()}
    if kind is Any:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where, ignore_unknown)
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError as error:
            valid = ", ".join(str(member.value) for member in kind)
            raise RecordError(f"{where} is {value!r}; it must be one of {valid}.") from error
    if issubclass(kind, Path):
        _require(str, value, where)
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    _require(kind, value, where)
    return value


def _decode_union(kind: Any, value: Any, where: str, ignore_unknown: bool) -> Any:
    """`X | None`, the only union that a record has."""
    if value is None:
        return None
    (only,) = (option for option in typing.get_args(kind) if option is not types.NoneType)
    return _decode(only, value, where, ignore_unknown)


def _decode_dataclass(kind: type, value: Any, where: str, ignore_unknown: bool) -> Any:
    if not isinstance(value, Mapping):
        raise RecordError(f"{where} is {value!r}; it must be a JSON object.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown and not ignore_unknown:
        raise RecordError(f"{where} has unknown fields {', '.join(unknown)}; valid are {', '.join(fields)}.")
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecordError(f"{where} lacks {', '.join(missing)}.")
    kinds = _types_of(kind)
    known = {
        name: _decode(kinds[name], value[name], f"{where}.{name}", ignore_unknown) for name in fields if name in value
    }
    return kind(**known)


@functools.cache
def _types_of(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _require(expected: type, value: Any, where: str) -> None:
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise RecordError(f"{where} is {value!r}; it must be of type {expected.__name__}.")
