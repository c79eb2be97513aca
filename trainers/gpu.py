"""What the CUDA driver says of a GPU, and TensorFlow does not."""

from __future__ import annotations

import ctypes
import uuid


def gpu_uuid(index: int) -> str:
    """The name that a GPU has for every process of its machine, as `nvidia-smi -L` shows it: "GPU-8f6c...".

    Its number is no such name: CUDA_VISIBLE_DEVICES, and Slurm with cgroups, number anew what a process may see.

    Args:
        index: Among the GPUs that this process sees, in the driver's order, which is TensorFlow's.

    Raises:
        OSError: There is no driver, or it refuses.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    device, bytes_of_uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    for call, *arguments in (
        ("cuInit", 0),
        ("cuDeviceGet", ctypes.byref(device), index),
        # The second version tells the parts of a GPU that MIG has divided.
        ("cuDeviceGetUuid_v2", ctypes.byref(bytes_of_uuid), device),
    ):
        if error := getattr(driver, call)(*arguments):
            raise OSError(f"{call} of the CUDA driver failed with error {error} for GPU {index}")
    return f"GPU-{uuid.UUID(bytes=bytes(bytes_of_uuid))}"
