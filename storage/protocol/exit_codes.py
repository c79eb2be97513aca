"""What the exit code of a rank says. Launchers pass it on; srun tells the highest one of all ranks."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `python -m trainers`. 0 is an end on purpose, which the attempt's result describes."""

    CRASHED = 1
    BAD_SPEC = 2
    """The specification itself cannot be trained, on whatever machine."""
    UNUSABLE_ALLOCATION = 3
    """The ranks, GPUs, data plane or mounts are not what the site promises: another allocation may do."""
    SUPERSEDED = 4
    """A newer attempt of the trial exists."""
    DISK_FULL = 5
    BAD_CHECKPOINT = 6
    """The newest checkpoint that is whole belongs to another trial, or is not a checkpoint."""
    OUT_OF_MEMORY = 7
    """A batch that the specification may ask for does not fit into a rank's memory."""
    PEERS_LOST = 14
    """As Open MPI ends a rank that cannot reach another one: MPI_ERR_UNKNOWN."""
