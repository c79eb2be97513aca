"""From a layout of ranks to the command that starts them. Pure: nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster import private_network


class LauncherError(ValueError):
    """There is no launcher of this name, or it cannot start this layout."""


@dataclass(frozen=True)
class RankLayout:
    """Where the ranks of one trial go."""

    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    gpus_per_node: int = 0

    def __post_init__(self) -> None:
        for name in ("nodes", "ranks_per_node", "cpus_per_rank"):
            if getattr(self, name) < 1:
                raise LauncherError(f"{name}={getattr(self, name)}; a trial needs at least 1.")

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


class Launcher(Protocol):
    def argv(self, layout: RankLayout, program: Sequence[str], options: Sequence[str] = ()) -> tuple[str, ...]:
        """The command that starts `program` once per rank and ends when all ranks have ended.

        Args:
            options: The site's own, which come last and are therefore the stronger ones.
        """
        ...


@dataclass(frozen=True)
class Mpirun:
    """Open MPI's own launcher: one machine, or an allocation that it finds in its environment."""

    def argv(self, layout: RankLayout, program: Sequence[str], options: Sequence[str] = ()) -> tuple[str, ...]:
        is_one_machine = layout.nodes == 1
        command = (
            "mpirun",
            "-np",
            str(layout.world_size),
            # Ranks may outnumber the cores of a laptop; each has its own number of threads in any case.
            "--map-by",
            f"ppr:{layout.ranks_per_node}:node:OVERSUBSCRIBE",
            "--bind-to",
            "none",
            # On one machine shared memory is all that is needed, and MPI opens no port.
            *(("--mca", "btl", "self,sm") if is_one_machine else ()),
            *options,
            *program,
        )
        return private_network.wrap(command) if is_one_machine else command


@dataclass(frozen=True)
class Srun:
    """Slurm's launcher, inside an allocation."""

    def argv(self, layout: RankLayout, program: Sequence[str], options: Sequence[str] = ()) -> tuple[str, ...]:
        return (
            "srun",
            f"--nodes={layout.nodes}",
            f"--ntasks={layout.world_size}",
            f"--ntasks-per-node={layout.ranks_per_node}",
            # Since Slurm 22.05 a step does not inherit it from its job.
            f"--cpus-per-task={layout.cpus_per_rank}",
            # All GPUs of a node are visible to each of its ranks: NCCL has to see its peers' ones.
            *((f"--gres=gpu:{layout.gpus_per_node}",) if layout.gpus_per_node else ()),
            "--mpi=pmix",
            "--kill-on-bad-exit=1",
            *options,
            *program,
        )


LAUNCHERS: Mapping[str, Launcher] = {"mpirun": Mpirun(), "srun": Srun()}


def launcher(name: str) -> Launcher:
    """The launcher that a site profile names.

    Raises:
        LauncherError: There is none of this name.
    """
    try:
        return LAUNCHERS[name]
    except KeyError:
        raise LauncherError(f"launcher={name!r}; it must be one of {', '.join(LAUNCHERS)}.") from None
