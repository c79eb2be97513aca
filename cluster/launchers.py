"""From a layout of ranks to the command that starts them. `argv` is pure: nothing is run there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from cluster import private_network
from cluster.diagnosis import cause
from cluster.slurm import step
from cluster.slurm.words import slurm_lines
from storage.protocol.attempts import RankLayout

_EARLIER_STEPS_GONE_WITHIN_S = 30.0


class LauncherError(ValueError):
    """There is no launcher of this name."""


class Launcher(Protocol):
    def argv(self, layout: RankLayout, program: Sequence[str], options: Sequence[str] = ()) -> tuple[str, ...]:
        """The command that starts `program` once per rank and ends when all ranks have ended.

        Args:
            options: The site's own, which are the stronger ones.
        """
        ...

    def prepare(self) -> None:
        """Wait, for a limited time, until the ranks of an attempt before this one are gone."""
        ...

    def explain(self, log_tail: str) -> str:
        """What the launcher itself said of a failure; what was said last if it said nothing."""
        ...


@dataclass(frozen=True)
class Mpirun:
    """Open MPI's own launcher: one machine, or an allocation that it finds in its environment."""

    def argv(self, layout: RankLayout, program: Sequence[str], options: Sequence[str] = ()) -> tuple[str, ...]:
        is_one_machine = layout.nodes == 1
        # Ranks may outnumber the cores of a laptop; each has its own number of threads in any case.
        own: dict[str, tuple[str, ...]] = {
            "--map-by": ("--map-by", f"ppr:{layout.ranks_per_node}:node:OVERSUBSCRIBE"),
            "--bind-to": ("--bind-to", "none"),
        }
        if is_one_machine:
            # Shared memory is all that is needed, and MPI opens no port.
            own["btl"] = ("--mca", "btl", "self,sm")
        # mpirun refuses an option that is there twice.
        kept = (words for name, words in own.items() if name not in options)
        command = ("mpirun", "-np", str(layout.world_size), *chain.from_iterable(kept), *options, *program)
        return private_network.wrap(command) if is_one_machine else command

    def prepare(self) -> None:
        """The supervisor of the attempt before has left no process behind."""

    def explain(self, log_tail: str) -> str:
        return cause(log_tail)


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
            # A site may have set SBATCH_EXPORT or SLURM_EXPORT_ENV to NONE, which the ranks would inherit.
            "--export=ALL",
            *options,
            *program,
        )

    def prepare(self) -> None:
        step.wait_for_earlier_steps(os.environ.get("SLURM_JOB_ID", ""), _EARLIER_STEPS_GONE_WITHIN_S)

    def explain(self, log_tail: str) -> str:
        return slurm_lines(log_tail) or cause(log_tail)


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
