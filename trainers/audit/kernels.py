"""Which kernel an operation runs with: the rule by which TensorFlow chooses one, on values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

Types = tuple[tuple[str, tuple[str, ...]], ...]
"""An operation's attributes that are types, by name, each with the data types that it holds: (("T", ("float32",)),)."""

# Where no kernel is registered for the device itself, one for any device will do.
_ANY_DEVICE = "DEFAULT"
_GPU = "GPU"


@dataclass(frozen=True)
class Operation:
    """What a kernel is chosen by."""

    name: str
    """Of its kind: Conv2D."""
    types: Types = ()

    def __str__(self) -> str:
        types = ", ".join(f"{name}={'/'.join(held)}" for name, held in self.types)
        return f"{self.name}({types})"


@dataclass(frozen=True)
class Kernel:
    """A kernel as it is registered."""

    device: str
    constraints: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    """The data types that an attribute may hold; of those that are not named, any."""
    host_arguments: tuple[str, ...] = ()
    """Inputs and outputs that lie in the host's memory."""
    label: str = ""
    """One with a label is chosen by graphs only that ask for it."""
    priority: int = 0

    def suits(self, operation: Operation) -> bool:
        types = dict(operation.types)
        return not self.label and all(
            name in types and allowed.issuperset(types[name]) for name, allowed in self.constraints.items()
        )


def find_kernel(operation: Operation, kernels: Iterable[Kernel], device: str = _GPU) -> Kernel | None:
    """The kernel that runs the operation on a device; None where there is none.

    Source: FindKernelRegistration in TensorFlow's core/framework/op_kernel.cc.
    """
    suitable = [kernel for kernel in kernels if kernel.suits(operation)]
    for name in (device, _ANY_DEVICE):
        if found := [kernel for kernel in suitable if kernel.device == name]:
            return max(found, key=lambda kernel: kernel.priority)
    return None


@cache
def registered_kernels(name: str) -> tuple[Kernel, ...]:
    """All kernels of a kind of operation in this process's TensorFlow, whatever the machine has."""
    import tensorflow as tf

    # No public interface gives them.
    from tensorflow.python.framework.kernels import get_registered_kernels_for_op

    return tuple(
        Kernel(
            device=kernel.device_type,
            constraints={
                constraint.name: frozenset(tf.as_dtype(number).name for number in constraint.allowed_values.list.type)
                for constraint in kernel.constraint
            },
            host_arguments=tuple(kernel.host_memory_arg),
            label=kernel.label,
            priority=kernel.priority,
        )
        for kernel in get_registered_kernels_for_op(name).kernel
    )


def has_gpu_kernels() -> bool:
    """Whether this process's TensorFlow is built for GPUs."""
    return any(kernel.device == _GPU for kernel in registered_kernels("MatMul"))
