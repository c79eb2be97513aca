"""Whether the ranks move their gradients as the site asks. Pure, and without TensorFlow."""

from __future__ import annotations

from storage.records import CommunicatorReport

SLOWEST_VARIABLE = "SWITCHYARD_SLOWEST_DATA_PLANE"
_BY_SPEED = ("nccl", "mpi", "gloo")


class DataPlaneError(ValueError):
    """The gradients would take a slower way than the site allows, or GPUs are shared."""


def require_data_plane(report: CommunicatorReport, slowest: str) -> None:
    """Check what the ranks found out about themselves.

    Args:
        slowest: nccl, mpi or gloo; nccl asks for a GPU per rank, too.

    Raises:
        DataPlaneError: With the first rank that lacks something.
    """
    if slowest not in _BY_SPEED:
        raise DataPlaneError(f"{SLOWEST_VARIABLE}={slowest!r}; it must be one of {', '.join(_BY_SPEED)}.")
    if slowest == "nccl":
        for rank, (host, gpu) in enumerate(zip(report.hosts, report.gpus, strict=True)):
            if not gpu:
                raise DataPlaneError(
                    f"rank {rank} on {host} has no GPU of its own; give the job as many GPUs per node as ranks, all of "
                    "them visible to each rank, or set slowest_data_plane of the site."
                )
    if _BY_SPEED.index(report.data_plane) > _BY_SPEED.index(slowest):
        raise DataPlaneError(
            f"{report.data_plane} would move the gradients, but the site asks for {slowest} "
            f"(NCCL is {'' if report.nccl_built else 'not '}built into this Horovod): install the build with NCCL "
            "(`make nccl`), or set slowest_data_plane of the site."
        )
