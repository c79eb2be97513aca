"""Whether the ranks move their gradients as the site asks. Pure, and without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

from storage.protocol.records import CommunicatorReport
from storage.protocol.variables import REQUIRED_BACKEND
from trainers.faults import AllocationError

DATA_PLANES = ("nccl", "mpi", "gloo")
"""What may move gradients, the fastest first."""


class DataPlaneError(AllocationError):
    """The gradients would take a slower way than the site allows, or GPUs are shared."""


def require_data_plane(report: CommunicatorReport, required: str) -> None:
    """Check what the ranks found out about themselves.

    Args:
        required: The slowest that will do: nccl, mpi or gloo; nccl asks for a GPU per rank, too.

    Raises:
        DataPlaneError: With the first rank that lacks something.
    """
    if required not in DATA_PLANES:
        raise DataPlaneError(f"{REQUIRED_BACKEND}={required!r}; it must be one of {', '.join(DATA_PLANES)}.")
    if required == "nccl":
        for rank, (host, gpu) in enumerate(zip(report.hosts, report.gpus, strict=True)):
            if not gpu:
                raise DataPlaneError(
                    f"rank {rank} on {host} has no GPU of its own; give the job as many GPUs per node as ranks, "
                    "and each rank all of them or one to see, or set required_backend of the site."
                )
        _require_no_sharing(report)
    if DATA_PLANES.index(report.data_plane) > DATA_PLANES.index(required):
        raise DataPlaneError(
            f"{report.data_plane} would move the gradients, but the site asks for {required} "
            f"(NCCL is {'' if report.nccl_built else 'not '}built into this Horovod): install the build with NCCL "
            "(`make nccl`), or set required_backend of the site."
        )


def host_data_plane(environ: Mapping[str, str], *, mpi_enabled: bool) -> str:
    """What moves tensors that lie in the host's memory: MPI where Horovod has it, unless it is told otherwise."""
    is_told_gloo = environ.get("HOROVOD_CPU_OPERATIONS", "").lower() == "gloo"
    return "mpi" if mpi_enabled and not is_told_gloo else "gloo"


def own_gpu(local_rank: int, visible_gpus: int) -> int | None:
    """Which of the GPUs that a rank sees it takes; None if there is none for it.

    Args:
        visible_gpus: Their number. All of the node's, where the launcher leaves them to the ranks; one, where it has
            dealt them out already (`srun --gpus-per-task=1`, and Slurm with ParaStation by itself).
    """
    if visible_gpus == 1:
        return 0
    return local_rank if local_rank < visible_gpus else None


def _require_no_sharing(report: CommunicatorReport) -> None:
    taken: dict[tuple[str, str], int] = {}
    for rank, place in enumerate(zip(report.hosts, report.gpus, strict=True)):
        if (other := taken.setdefault(place, rank)) != rank:
            host, gpu = place
            raise DataPlaneError(
                f"ranks {other} and {rank} on {host} have one GPU, {gpu}; make all GPUs of a node visible to each of "
                "its ranks, or another one to each (CUDA_VISIBLE_DEVICES)."
            )
