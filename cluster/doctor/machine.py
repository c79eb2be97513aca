"""What this machine has. Needs no TensorFlow and no GPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from cluster.doctor.facts import GpuFacts, MachineFacts

NEEDED_PACKAGES = ("tensorflow", "horovod", "mpi4py", "distributed")
# Conda has an Open MPI that is not a Python package.
_LISTED_PACKAGES = (*NEEDED_PACKAGES, "openmpi")
# TensorFlow's builds for CPUs go by another name.
_OTHER_NAMES = {"tensorflow": ("tensorflow-cpu",)}
_ANSWERS_WITHIN_S = 20.0
# The call of NCCL's by which its ranks meet.
_NCCL_SYMBOL = b"ncclCommInitRank"


def gather_machine() -> MachineFacts:
    gpus, driver_cuda = _gpus()
    return MachineFacts(
        host=host_name(),
        python=platform.python_version(),
        executable=sys.executable,
        packages={name: version for name in _LISTED_PACKAGES if (version := _version(name))},
        cpus=len(os.sched_getaffinity(0)),
        interfaces=_interfaces(),
        compilers=_compilers(),
        gpus=gpus,
        driver_cuda=driver_cuda,
        tensorflow_cuda=_tensorflow_cuda(),
        horovod_has_nccl=_has_nccl(),
    )


def host_name() -> str:
    """Of this machine, without its domain."""
    return socket.gethostname().partition(".")[0]


def address_of(interface: str) -> str | None:
    """The first IPv4 address of a network interface, which is the one that Dask takes; None if there is none."""
    return next(iter(_interfaces().get(interface, ())), None)


def parse_gpus(printed: str) -> tuple[GpuFacts, ...]:
    """Out of what nvidia-smi printed: name, uuid, driver_version, memory.total; one GPU a line. Pure."""
    rows = [[field.strip() for field in line.split(",")] for line in printed.splitlines()]
    return tuple(
        GpuFacts(name, uuid, driver, int(memory))
        for name, uuid, driver, memory in (row for row in rows if len(row) == 4)
        # A GPU that a virtual machine manages says [N/A].
        if memory.isdecimal()
    )


def _version(package: str) -> str:
    for name in (package, *_OTHER_NAMES.get(package, ())):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _interfaces() -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(address.address for address in addresses if address.family == socket.AF_INET)
        for name, addresses in psutil.net_if_addrs().items()
    }


def _compilers() -> dict[str, str]:
    # In the order of the Makefile; CUDA_HOME is what `make nccl` goes by.
    cuda_home = os.environ.get("CUDA_HOME")
    candidates = {
        "C++": (os.environ.get("CXX", ""), "c++", "g++", "clang++"),
        "CUDA": (str(Path(cuda_home) / "bin/nvcc") if cuda_home else "", "nvcc"),
    }
    found = {
        kind: next(filter(None, map(shutil.which, filter(None, names))), None) for kind, names in candidates.items()
    }
    return {kind: path for kind, path in found.items() if path}


def _gpus() -> tuple[tuple[GpuFacts, ...] | None, str]:
    query = _output_of(
        "nvidia-smi", "--query-gpu=name,uuid,driver_version,memory.total", "--format=csv,noheader,nounits"
    )
    if query is None:
        return None, ""
    match = re.search(r"CUDA Version: *([\d.]+)", _output_of("nvidia-smi") or "")
    return parse_gpus(query), match[1] if match else ""


def _output_of(*command: str) -> str | None:
    """None if it is not there, fails or does not answer, as it does when a GPU hangs."""
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ANSWERS_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None


def _tensorflow_cuda() -> str:
    """From the file that TensorFlow's build leaves: importing TensorFlow takes seconds, and looks for GPUs."""
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.origin is None:
        return ""
    build = Path(found.origin).parent / "python/platform/build_info.py"
    if not build.is_file():
        return ""
    return str(runpy.run_path(str(build)).get("build_info", {}).get("cuda_version", ""))


def _has_nccl() -> bool:
    found = importlib.util.find_spec("horovod")
    if found is None or found.origin is None:
        return False
    libraries = (Path(found.origin).parent / "tensorflow").glob("mpi_lib*.so")
    return any(_NCCL_SYMBOL in library.read_bytes() for library in libraries)
