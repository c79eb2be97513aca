"""A site: what a trial gets there and how its ranks are started. One file cluster/sites/NAME.toml each."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.launchers import RankLayout

SITES_DIR = Path(__file__).parent / "sites"


class SiteError(ValueError):
    """There is no such site, or its profile is malformed. The message says what to do."""


class SiteProfile(BaseModel):
    """One site's profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    launcher: Literal["mpirun", "srun"]
    nodes_per_trial: int = Field(default=1, ge=1)
    ranks_per_node: int = Field(ge=1)
    cpus_per_rank: int | Literal["auto"] = "auto"
    """`auto` divides the machine's cores among the ranks of the trials that run at once."""
    max_concurrent_trials: int = Field(default=1, ge=1)
    """Fewer run at once where the machine has fewer cores than their ranks."""
    checkpoint_grace_s: float = Field(default=30.0, gt=0)
    """For the ranks to save a checkpoint when they must go."""
    environment: dict[str, str] = {}
    """Added to the ranks' environment."""

    def concurrent_trials(self, cores: int) -> int:
        """How many trials run at once on a machine of `cores` cores: one at least."""
        return max(1, min(self.max_concurrent_trials, cores // (self.nodes_per_trial * self.ranks_per_node)))

    def layout(self, cores: int) -> RankLayout:
        """Where the ranks of one trial go, on a machine of `cores` cores."""
        ranks = self.nodes_per_trial * self.ranks_per_node * self.concurrent_trials(cores)
        cpus = max(1, cores // ranks) if self.cpus_per_rank == "auto" else self.cpus_per_rank
        return RankLayout(self.nodes_per_trial, self.ranks_per_node, cpus)


def site_names() -> list[str]:
    return sorted(path.stem for path in SITES_DIR.glob("*.toml"))


def load_site(name: str) -> SiteProfile:
    """The profile of a site by its name, or of a TOML file elsewhere by its path.

    Raises:
        SiteError: No such site, or an unknown or malformed key in its profile.
    """
    path = Path(name) if name.endswith(".toml") else SITES_DIR / f"{name}.toml"
    if not path.is_file():
        raise SiteError(
            f"there is no site {name!r}; choose one of {', '.join(site_names())}, add cluster/sites/{path.name}, or "
            "give the path of a .toml file."
        )
    try:
        return SiteProfile(name=path.stem, **tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise SiteError(f"{path}: not valid TOML: {error}.") from error
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise SiteError(f"{path}: {reasons}. Valid keys: {', '.join(SiteProfile.model_fields)}.") from error


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
