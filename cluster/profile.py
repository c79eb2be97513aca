"""A site: what a trial gets there and how its ranks are started. One file cluster/sites/NAME.toml each."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.overrides import OverrideError, apply_override
from cluster.toml_tables import TablesError, check_tables, parse_toml
from storage.protocol.attempts import RankLayout
from storage.protocol.variables import REQUIRED_BACKEND

SITES_DIR = Path(__file__).parent / "sites"


PLACEHOLDER = "REPLACE-ME"
"""A value that a profile cannot know; a study does not start with it."""


class SiteError(ValueError):
    """There is no such site, or its profile is malformed. The message says what to do."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SlurmSettings(_Table):
    """How jobs are asked for. What is left out, Slurm's own defaults decide."""

    queue: str | None = None
    """Slurm's partition."""
    account: str | None = None
    """Who is charged; PLACEHOLDER where each user has to say."""
    walltime: str = Field(pattern=r"^(\d+-)?\d+:\d\d:\d\d$")
    """Of one job, as [DAYS-]HOURS:MM:SS. A trial that needs longer goes on in the next job."""
    interface: str
    """The network device of the compute nodes through which the runners talk to the driver."""
    driver_interface: str | None = None
    """The same of the machine on which the driver runs, where it has another name there."""
    memory_per_node: str | None = None
    """As sbatch --mem takes it; "0" asks for all."""
    gpu_type: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Slurm's word for it, as in --gres=gpu:TYPE:4; the ranks' step takes what its job was given."""
    prologue: tuple[str, ...] = ()
    """Lines of the job script before the runner: modules and environment."""
    pass_environment: tuple[str, ...] = ()
    """More variables of the driver's environment that its jobs are given. A login shell sets the rest anew."""
    extra_directives: tuple[str, ...] = ()
    """More options for sbatch, each as in a #SBATCH line."""
    death_timeout_s: int = Field(default=60, ge=5)
    """A runner whose driver is not there for so long ends, and its job with it."""
    squeue_every_s: float = Field(default=15.0, gt=0)
    """How often the driver asks Slurm about its jobs."""
    pending_notice_s: float = Field(default=600.0, gt=0)
    """When jobs have been waiting in the queue for so long, the driver says so, and again at each doubling."""

    @property
    def walltime_s(self) -> int:
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class SiteProfile(_Table):
    """One site's profile."""

    name: str
    launcher: Literal["mpirun", "srun"]
    launcher_options: tuple[str, ...] = ()
    """Added to the launcher's own, and stronger where they contradict."""
    nodes_per_trial: int = Field(default=1, ge=1)
    ranks_per_node: int = Field(ge=1)
    cpus_per_rank: int | Literal["auto"] = "auto"
    """`auto` divides the machine's cores among the ranks of the trials that run at once."""
    max_concurrent_trials: int = Field(default=1, ge=1)
    """Fewer run at once where the machine has fewer cores than their ranks. With Slurm: jobs at once."""
    gpus_per_node: int = Field(default=0, ge=0)
    """Each rank takes the one of its own number on its node, or the only one that it sees."""
    link_gbit_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What a node sends to others in each direction, over all of its network adapters that carry gradients: what
    study/gpu_check.py compares the allreduce with."""
    required_backend: Literal["nccl", "mpi", "gloo", "auto"] = "auto"
    """What may move the gradients at the least; a trial whose ranks find less ends before epoch 0. `auto` is NCCL where
    there are GPUs and MPI elsewhere: Gloo is used only where a site says so."""
    checkpoint_grace_s: float = Field(default=30.0, gt=0)
    """For the ranks to save a checkpoint when they must go."""
    rendezvous_timeout_s: float = Field(default=600.0, gt=0)
    """For all ranks to start and find one another; those that have not are terminated and started again."""
    heartbeat_timeout_s: float = Field(default=900.0, gt=0)
    """Ranks that get no further for so long are terminated and started again."""
    resident_ranks: bool = True
    """Whether ranks that have come to a result stay for the next trial of their allocation, which then need not import
    TensorFlow, meet and trace again."""
    kg_co2e_per_kwh: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Of the site's electricity, its cooling included or not as the site wants it. None: no CO2e is said."""
    environment: dict[str, str] = {}
    """Added to the ranks' environment."""
    slurm: SlurmSettings | None = None
    """None: the ranks run on this machine."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.slurm is not None and self.cpus_per_rank == "auto":
            raise ValueError("cpus_per_rank must be a number on a site with [slurm]: it is asked for in each job")
        if self.slurm is None and (self.launcher == "srun" or self.nodes_per_trial > 1):
            raise ValueError("launcher='srun' and nodes_per_trial above 1 need a [slurm] table")
        if 0 < self.gpus_per_node < self.ranks_per_node:
            raise ValueError(
                f"ranks_per_node={self.ranks_per_node} is above gpus_per_node={self.gpus_per_node}; each rank takes one"
            )
        return self

    @property
    def backend(self) -> str:
        """`required_backend` with `auto` decided."""
        if self.required_backend != "auto":
            return self.required_backend
        return "nccl" if self.gpus_per_node else "mpi"

    @property
    def rank_environment(self) -> dict[str, str]:
        """What the site adds to the ranks' environment."""
        return {REQUIRED_BACKEND: self.backend, **self.environment}

    def concurrent_trials(self, cores: int) -> int:
        """How many trials run at once; without Slurm, on a machine of `cores` cores: one at least."""
        if self.slurm is not None:
            return self.max_concurrent_trials
        return max(1, min(self.max_concurrent_trials, cores // (self.nodes_per_trial * self.ranks_per_node)))

    def layout(self, cores: int) -> RankLayout:
        """Where the ranks of one trial go; without Slurm, on a machine of `cores` cores."""
        ranks = self.nodes_per_trial * self.ranks_per_node * self.concurrent_trials(cores)
        cpus = max(1, cores // ranks) if self.cpus_per_rank == "auto" else self.cpus_per_rank
        return RankLayout(self.nodes_per_trial, self.ranks_per_node, cpus, self.gpus_per_node)

    def layout_on(self, nodes: int, layout: RankLayout) -> RankLayout:
        """A trial's layout with another number of nodes: on one machine, with as many times the ranks of one."""
        if self.slurm is None:
            return replace(layout, ranks_per_node=nodes * self.ranks_per_node)
        return replace(layout, nodes=nodes)

    def nodes_of(self, layout: RankLayout) -> int:
        """As `layout_on` counts them."""
        return layout.world_size // self.ranks_per_node


def site_names() -> list[str]:
    return sorted(path.stem for path in SITES_DIR.glob("*.toml"))


def load_site(name: str, overrides: Sequence[str] = ()) -> SiteProfile:
    """The profile of a site by its name, or of a TOML file elsewhere by its path.

    Args:
        overrides: KEY=VALUE, such as slurm.account=physics.

    Raises:
        SiteError: No such site, or an unknown or malformed key or a control character in its profile.
    """
    path = Path(name) if name.endswith(".toml") else SITES_DIR / f"{name}.toml"
    if not path.is_file():
        raise SiteError(
            f"there is no site {name!r}; choose one of {', '.join(site_names())}, add cluster/sites/{path.name}, or "
            "give the path of a .toml file."
        )
    try:
        tables = parse_toml(path.read_text())
        for override in overrides:
            apply_override(tables, override)
        check_tables(tables)
        if "name" in tables:
            raise SiteError(f"{path}: name={tables['name']!r} is not a key; a site is called as its file is.")
        return SiteProfile(name=path.stem, **tables)
    except OverrideError as error:
        raise SiteError(f"--site-set {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SiteError(f"{path}: not valid TOML: {error}.") from error
    except TablesError as error:
        raise SiteError(f"{path}: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SiteError(f"{path} cannot be read: {error}.") from error
    except ValidationError as error:
        raise SiteError(f"{path}: {_describe(error)}") from error


def _describe(error: ValidationError) -> str:
    """What is wrong with a profile, and the valid keys where it has another one."""
    found = error.errors()
    reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in found) + "."
    if all(e["type"] != "extra_forbidden" for e in found):
        return reasons
    keys = ", ".join(key for key in SiteProfile.model_fields if key != "name")
    return f"{reasons} Valid keys: {keys}; under [slurm]: {', '.join(SlurmSettings.model_fields)}."


def check_complete(profile: SiteProfile) -> None:
    """Refuse a profile in which the user has still to fill in a value.

    Raises:
        SiteError: With the option that fills it in.
    """
    values = {} if profile.slurm is None else profile.slurm.model_dump()
    for key, value in values.items():
        if value == PLACEHOLDER:
            raise SiteError(
                f"site {profile.name!r} does not know your slurm.{key}: give it with --site-set slurm.{key}=VALUE, or "
                f"write it into {SITES_DIR / profile.name}.toml."
            )


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
