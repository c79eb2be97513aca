"""The operations of a traced function, with those of all functions that it calls."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.audit.kernels import Operation, Types

if TYPE_CHECKING:
    import tensorflow as tf

# Keras appends one to the name of a layer that is called once more, as all are that have been built.
_COUNT = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Output:
    """What an operation gives, one of several perhaps."""

    operation: Operation
    name: str
    """As the operation calls it."""


@dataclass(frozen=True)
class Node:
    """An operation and its place in a graph."""

    operation: Operation
    path: str
    """The scopes that it was traced in, layers among them, and its own name."""
    inputs: tuple[tuple[str, Output], ...] = ()
    """What it takes, by the names of its arguments."""

    def layer(self, names: Collection[str]) -> str | None:
        """The innermost of the named layers that the operation belongs to."""
        for part in reversed(self.path.split("/")):
            for name in (_COUNT.sub("", part), part):
                if name in names:
                    return name
        return None


def nodes_of(graph: tf.Graph) -> Iterator[Node]:
    """All operations, the bodies of loops and branches included."""
    definition = graph.as_graph_def()
    yield from _nodes(definition.node, {})
    for function in definition.library.function:
        parameters = {parameter.name: _passed(parameter.type) for parameter in function.signature.input_arg}
        yield from _nodes(function.node_def, parameters)


def _nodes(definitions: Iterable[Any], parameters: Mapping[str, Output]) -> Iterator[Node]:
    by_name = {definition.name: definition for definition in definitions}
    for definition in by_name.values():
        names = [name for name, _ in _flattened(_signature(definition).input_arg, definition)]
        # A name behind ^ is one to wait for, of which nothing is taken.
        sources = [_source(name, by_name, parameters) for name in definition.input if not name.startswith("^")]
        yield Node(_operation(definition), definition.name, tuple(zip(names, sources, strict=True)))


def _source(name: str, by_name: Mapping[str, Any], parameters: Mapping[str, Output]) -> Output:
    """Args: name: PARAMETER, NODE:OUTPUT:INDEX in a function, or NODE:INDEX."""
    node, *output, index = name.split(":") if ":" in name else (name, "0")
    if node in parameters:
        return parameters[node]
    definition = by_name[node]
    if definition.op == "Placeholder":
        return _passed(definition.attr["dtype"].type)
    outputs = list(_flattened(_signature(definition).output_arg, definition))
    if output:
        outputs = [each for each in outputs if each[0] == output[0]]
    output_name, number = outputs[int(index)]
    is_call = any("func" in attribute.type for attribute in _signature(definition).attr)
    return _passed(number) if is_call else Output(_operation(definition), output_name)


def _passed(number: int) -> Output:
    """What comes into a function or out of one, of a type: it lies where TensorFlow puts arguments of this type."""
    return Output(Operation("_Arg", (("T", (_type_name(number),)),)), "output")


def _flattened(arguments: Iterable[Any], definition: Any) -> Iterator[tuple[str, int]]:
    """Name and type of each tensor: one argument may be several."""
    for argument in arguments:
        if argument.type_list_attr:
            numbers = list(definition.attr[argument.type_list_attr].list.type)
        else:
            number = argument.type or definition.attr[argument.type_attr].type
            numbers = [number] * (definition.attr[argument.number_attr].i if argument.number_attr else 1)
        yield from ((argument.name, number) for number in numbers)


def _signature(definition: Any) -> Any:
    # No public interface gives it.
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(definition.op)


def _operation(definition: Any) -> Operation:
    return Operation(definition.op, _types_of(definition))


def _types_of(definition: Any) -> Types:
    numbers = {name: [value.type] if value.type else value.list.type for name, value in definition.attr.items()}
    return tuple((name, tuple(sorted(set(map(_type_name, held))))) for name, held in sorted(numbers.items()) if held)


def _type_name(number: int) -> str:
    import tensorflow as tf

    name: str = tf.as_dtype(number).name
    return name
