"""Whether a step may run on a GPU as it is: each of its operations with the kernel that it gets there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from trainers.audit.graph import Node, Output
from trainers.audit.host_memory import Reason, reason_for
from trainers.audit.kernels import Kernel, Operation, find_kernel, registered_kernels
from trainers.audit.steps import Step

Found = TypeVar("Found")


@dataclass(frozen=True)
class Verdict:
    """On one kind of operation with one set of types, wherever it is found."""

    operation: Operation
    kernel: Kernel | None
    """None: there is none for the device."""
    reason: Reason | None
    """Why the kernel has inputs or outputs in the host's memory; None: the list of expected ones does not say."""

    @property
    def is_expected(self) -> bool:
        return self.kernel is not None and self.reason is not None


@dataclass(frozen=True)
class Place:
    """Where operations of one kind are."""

    step: Step
    nodes: tuple[Node, ...]

    def __str__(self) -> str:
        first, further = self.nodes[0], len(self.nodes) - 1
        layer = first.layer(self.step.layers)
        where = f"layer {layer!r}" if layer else "no layer: data set, loss or optimizer"
        return f"{self.step.name}: {where} ({first.path}{f' and {further} more' * bool(further)})"


@dataclass(frozen=True)
class Wait:
    """Where the host needs what the GPU computes: it starts no more kernels until all that it has started are done."""

    source: Output
    operation: Operation
    argument: str
    """Of the operation."""


@dataclass(frozen=True)
class Audit:
    """What was found in all steps."""

    steps: tuple[Step, ...]
    places: dict[Verdict, tuple[Place, ...]]
    waits: dict[Wait, tuple[Place, ...]]

    @property
    def findings(self) -> list[str]:
        """What must not be: a line each."""
        return [
            _finding(verdict, places)
            for verdict, places in sorted(self.places.items(), key=lambda item: str(item[0].operation))
            if not verdict.is_expected
        ]

    def unexpected_in(self, step: Step) -> int:
        """Operations of a step, by their number, that lack a kernel or have something new in the host's memory."""
        places = [place for verdict, places in self.places.items() if not verdict.is_expected for place in places]
        return sum(len(place.nodes) for place in places if place.step is step)

    def waits_in(self, step: Step) -> int:
        return sum(len(place.nodes) for places in self.waits.values() for place in places if place.step is step)

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": [{"step": step.name, "operations": len(step.nodes)} for step in self.steps],
            "operations": [
                {
                    "operation": verdict.operation.name,
                    "types": dict(verdict.operation.types),
                    "device": verdict.kernel and verdict.kernel.device,
                    "host_arguments": verdict.kernel and verdict.kernel.host_arguments,
                    "reason": verdict.reason,
                    "steps": {place.step.name: len(place.nodes) for place in places},
                }
                for verdict, places in self.places.items()
            ],
            "waits": [
                {
                    "source": f"{wait.source.operation}.{wait.source.name}",
                    "operation": str(wait.operation),
                    "argument": wait.argument,
                    "steps": {place.step.name: len(place.nodes) for place in places},
                }
                for wait, places in self.waits.items()
            ],
            "findings": self.findings,
        }


def audit(
    steps: Iterable[Step],
    device: str = "GPU",
    kernels_of: Callable[[str], Sequence[Kernel]] = registered_kernels,
) -> Audit:
    """Look up the kernel of every operation.

    Args:
        kernels_of: Gives all kernels of a kind of operation.
    """

    @cache
    def kernel_of(operation: Operation) -> Kernel | None:
        return find_kernel(operation, kernels_of(operation.name), device)

    def verdicts_on(node: Node) -> list[Verdict]:
        kernel = kernel_of(node.operation)
        return [Verdict(node.operation, kernel, None if kernel is None else reason_for(node.operation, kernel))]

    def waits_of(node: Node) -> list[Wait]:
        return [
            Wait(source, node.operation, argument)
            for argument, source in node.inputs
            if _is_on_host(argument, kernel_of(node.operation))
            and not _is_on_host(source.name, kernel_of(source.operation))
        ]

    steps = tuple(steps)
    return Audit(steps, _places(steps, verdicts_on), _places(steps, waits_of))


def _is_on_host(argument: str, kernel: Kernel | None) -> bool:
    return kernel is None or argument in kernel.host_arguments


def _places(steps: Iterable[Step], found_in: Callable[[Node], Iterable[Found]]) -> dict[Found, tuple[Place, ...]]:
    """All places of each thing that is found in operations."""
    places: dict[Found, list[Place]] = {}
    for step in steps:
        nodes: dict[Found, list[Node]] = {}
        for node in step.nodes:
            for found in found_in(node):
                nodes.setdefault(found, []).append(node)
        for found, alike in nodes.items():
            places.setdefault(found, []).append(Place(step, tuple(alike)))
    return {found: tuple(of_steps) for found, of_steps in places.items()}


def _finding(verdict: Verdict, places: Sequence[Place]) -> str:
    what = (
        "has no kernel for GPUs, so that it would run on the host"
        if verdict.kernel is None
        else f"has {', '.join(verdict.kernel.host_arguments)} in the host's memory, which is not on the list of "
        "trainers/audit/host_memory.py"
    )
    further = f"; and in {len(places) - 1} other steps" * (len(places) > 1)
    return f"{verdict.operation} {what}. In {places[0]}{further}."
