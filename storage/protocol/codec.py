"""Records as JSON: one line out, the same record back."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
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
    try:
        return _decode(kind, value, ignore_unknown)
    except _Mismatch as mismatch:
        raise RecordError(f"{kind.__name__}{''.join(mismatch.path)} {mismatch.problem}.") from mismatch.__cause__


class _Mismatch(Exception):  # noqa: N818  it never leaves this file
    """A value is not of its type. Its place is put together on the way out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []


def _decode(kind: Any, value: Any, ignore_unknown: bool) -> Any:
    decode, argument = _decoder(kind)
    return decode(argument, value, ignore_unknown)


@functools.cache
def _decoder(kind: Any) -> tuple[Callable[[Any, Any, bool], Any], Any]:
    """How a value of a type is decoded: a function, and what it needs of the type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        # `X | None`, the only union that a record has.
        return _decode_optional, next(option for option in arguments if option is not types.NoneType)
    if origin in (list, tuple):
        return _decode_list, (origin, arguments[0])
    if origin in (dict, Mapping):
        return _decode_dict, arguments[1]
    if kind is Any:
        return _decode_any, None
    if dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
        missing, hints = dataclasses.MISSING, typing.get_type_hints(kind)
        required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
        return _decode_dataclass, (kind, {field.name: hints[field.name] for field in fields}, required)
    if issubclass(kind, Enum):
        return _decode_enum, kind
    if issubclass(kind, Path):
        return _decode_path, kind
    return (_decode_float if kind is float else _decode_plain), kind


def _decode_optional(kind: Any, value: Any, ignore_unknown: bool) -> Any:
    return None if value is None else _decode(kind, value, ignore_unknown)


def _decode_list(kind: Any, value: Any, ignore_unknown: bool) -> Any:
    container, item = kind
    _require(list, value)
    return container(_decode_item(item, f"[{i}]", each, ignore_unknown) for i, each in enumerate(value))


def _decode_dict(item: Any, value: Any, ignore_unknown: bool) -> Any:
    _require(dict, value)
    return {key: _decode_item(item, f".{key}", each, ignore_unknown) for key, each in value.items()}


def _decode_any(kind: Any, value: Any, ignore_unknown: bool) -> Any:
    return value


def _decode_enum(kind: Any, value: Any, ignore_unknown: bool) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        valid = ", ".join(str(member.value) for member in kind)
        raise _Mismatch(f"is {value!r}; it must be one of {valid}") from error


def _decode_path(kind: Any, value: Any, ignore_unknown: bool) -> Any:
    _require(str, value)
    return kind(value)


def _decode_float(kind: Any, value: Any, ignore_unknown: bool) -> Any:
    if type(value) is int:
        return float(value)
    _require(float, value)
    return value


def _decode_plain(kind: Any, value: Any, ignore_unknown: bool) -> Any:
    _require(kind, value)
    return value


def _decode_dataclass(described: Any, value: Any, ignore_unknown: bool) -> Any:
    kind, fields, required = described
    if not isinstance(value, dict):
        raise _Mismatch(f"is {value!r}; it must be a JSON object")
    unknown = sorted(value.keys() - fields.keys())
    if unknown and not ignore_unknown:
        raise _Mismatch(f"has unknown fields {', '.join(unknown)}; valid are {', '.join(fields)}")
    if missing := [name for name in required if name not in value]:
        raise _Mismatch(f"lacks {', '.join(missing)}")
    known = (name for name in fields if name in value)
    return kind(**{name: _decode_item(fields[name], f".{name}", value[name], ignore_unknown) for name in known})


def _decode_item(kind: Any, place: str, value: Any, ignore_unknown: bool) -> Any:
    try:
        decode, argument = _decoder(kind)
        return decode(argument, value, ignore_unknown)
    except _Mismatch as mismatch:
        mismatch.path.insert(0, place)
        raise


def _require(expected: type, value: Any) -> None:
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise _Mismatch(f"is {value!r}; it must be of type {expected.__name__}")
