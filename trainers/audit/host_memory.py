"""What a step may have in the host's memory while it runs on a GPU, and why. The list is fixed: anything new is seen.

Most of it is a few numbers. Of a batch there are the integers of `augment` and `shift`: a few for each image,
or one for each of its rows.
"""

from __future__ import annotations

from enum import StrEnum

from trainers.audit.kernels import Kernel, Operation


class Reason(StrEnum):
    """Why something lies in the host's memory."""

    NONE = ""
    """Nothing does."""
    HANDLE = "variable's handle"
    """Where its value lies, which is the GPU's memory."""
    LAUNCH = "launch parameters"
    """Sizes, axes or offsets, which say how the kernel is started and what it allocates."""
    SHAPE = "known shape"
    """Of a tensor, whose values are not looked at."""
    INTEGERS = "small integers"
    """Arithmetic in int32 on shapes, counters and positions: TensorFlow does all such on the host."""
    RANDOM = "random numbers' seed"
    """With their counter and bounds. The numbers are drawn on the GPU."""
    BRANCH = "branch"
    """Which one is taken: the host starts its kernels."""


_ARGUMENTS: dict[Reason, dict[str, str]] = {
    Reason.HANDLE: {
        "AssignAddVariableOp": "resource",
        "AssignVariableOp": "resource",
        "ReadVariableOp": "resource",
        "ResourceApplyAdam": "var m v",
        "ResourceApplyGradientDescent": "var",
        "ResourceApplyKerasMomentum": "var accum",
    },
    Reason.LAUNCH: {
        "BroadcastTo": "shape",
        "ConcatV2": "axis",
        "Conv2DBackpropFilter": "filter_sizes",
        "Conv2DBackpropInput": "input_sizes",
        "DepthwiseConv2dNativeBackpropFilter": "filter_sizes",
        "DepthwiseConv2dNativeBackpropInput": "input_sizes",
        # Of sums in a model of one's own: no bundled step has any (trainers/pooling.py).
        "DynamicStitch": "indices",
        "ExpandDims": "dim",
        "Fill": "dims",
        "GatherV2": "axis",
        "Max": "reduction_indices",
        "Mean": "reduction_indices",
        "Pad": "paddings",
        "Prod": "reduction_indices",
        "Reshape": "shape",
        "ResizeBilinear": "size",
        "ReverseV2": "axis",
        "Slice": "begin size",
        "StridedSlice": "begin end strides",
        "StridedSliceGrad": "shape begin end strides",
        "Sum": "reduction_indices",
        "Tile": "multiples",
        "Transpose": "perm",
    },
    Reason.SHAPE: {
        "BroadcastGradientArgs": "s0 s1 r0 r1",
        "ConcatOffset": "concat_dim shape offset",
        "Shape": "output",
        "ShapeN": "output",
    },
    Reason.RANDOM: {
        "StatelessRandomGetKeyCounter": "seed key counter",
        "StatelessRandomUniformFullIntV2": "shape alg",
        "StatelessRandomUniformIntV2": "shape alg minval maxval",
        "StatelessRandomUniformV2": "shape alg",
    },
    Reason.BRANCH: {"If": "cond"},
}

# All inputs and outputs of these are, and only where they are int32.
_INTEGERS = frozenset(
    (
        *("Abs", "AddV2", "ConcatV2", "Const", "Equal", "Fill", "FloorDiv", "FloorMod", "Identity", "Less", "Maximum"),
        *("Mul", "NotEqual", "Pack", "Range", "Reshape", "Slice", "StridedSlice", "Sub", "Unpack"),
    )
)


def reason_for(operation: Operation, kernel: Kernel) -> Reason | None:
    """Why the list lets a kernel have some of its inputs and outputs in the host's memory; None where it does not."""
    arguments = set(kernel.host_arguments)
    if not arguments:
        return Reason.NONE
    for reason, listed in _ARGUMENTS.items():
        if arguments <= set(listed.get(operation.name, "").split()):
            return reason
    is_int32 = all(set(types) == {"int32"} for _, types in operation.types)
    return Reason.INTEGERS if operation.name in _INTEGERS and is_int32 else None
