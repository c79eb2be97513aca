"""How many nodes a trial has at each rung of a pruner that promotes: the survivors have more. Pure.

Source: Aach et al. 2026, Resource-Adaptive Successive Doubling (RASDA), Future Generation Computer Systems.
"""

from __future__ import annotations

from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.profile import SiteProfile
from storage.protocol.records import BatchScaling, RankGrowth
from study.pruners import AnyPruner, AshaPruner


class ResourcesError(ValueError):
    """A trial cannot have so many nodes at its rungs. The message says what would do."""


class ResourceSettings(BaseModel):
    """More nodes for the trials that pass a rung."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes_per_rung: tuple[int, ...] = Field(default=())
    """Nodes of a trial until its first rung, from there to the second one, and so on; the last number holds to the end.
    On one machine a node is as many ranks as the site gives a trial. Empty: those of the site, at every rung."""
    batch: BatchScaling = BatchScaling.PER_RANK
    """Whether the global batch grows with the ranks or stays. The sizes that the batch policy says are those until the
    first rung. By default it grows, as in RASDA: a rank's share of it, hence what batch normalisation sees and how well
    a device is used, stays as it was."""

    @model_validator(mode="after")
    def _nodes_never_become_fewer(self) -> ResourceSettings:
        nodes = list(self.nodes_per_rung)
        if nodes and (nodes[0] < 1 or nodes != sorted(nodes)):
            raise ValueError(f"nodes_per_rung={nodes}; take numbers from 1 on, none below the one before, as [1, 2, 4]")
        if self.batch is BatchScaling.GLOBAL and not nodes:
            raise ValueError("batch says what more nodes mean, and nodes_per_rung is not set; set it, too")
        return self

    def require_rungs(self, pruner: AnyPruner) -> None:
        """
        Args:
            pruner: Resolved.

        Raises:
            ResourcesError: The pruner has no such rungs, or is never asked at one.
        """
        nodes = list(self.nodes_per_rung)
        if not nodes:
            return
        if not isinstance(pruner, AshaPruner) or not pruner.promotes:
            raise ResourcesError(
                f"resources.nodes_per_rung={nodes} is for trials that are promoted, and pruner.name={pruner.name!r} "
                "promotes none; set pruner.name='asha' and pruner.promotes=true, or leave it out."
            )
        rungs = pruner.rungs_of(0)
        if len(nodes) > len(rungs) + 1:
            raise ResourcesError(
                f"resources.nodes_per_rung={nodes} has {len(nodes)} numbers, and a trial passes {len(rungs)} rungs, "
                f"after {', '.join(map(str, rungs))} epochs; take 1 to {len(rungs) + 1} numbers."
            )
        if self.batch is BatchScaling.PER_RANK:
            self._require_verdicts(pruner)

    def _require_verdicts(self, pruner: AshaPruner) -> None:
        """A batch that grows at a rung has its time of grace, in which the next rung must not lie."""
        growing = {epoch for epoch, _ in self._nodes_from(pruner)[1:]}
        for rung, following in pairwise(pruner.rungs_of(0)):
            if rung in growing and following - rung <= pruner.grace_epochs:
                raise ResourcesError(
                    f"the batch grows after {rung} epochs, and pruner.grace_epochs={pruner.grace_epochs} leaves no "
                    f"verdict at the rung after {following}; set it to {following - rung - 1} at most, or take "
                    "rungs that lie further apart, or resources.batch='global'."
                )

    def require_nodes(self, site: SiteProfile, nodes_at_once: int) -> None:
        """
        Args:
            nodes_at_once: That a study may have on the site.

        Raises:
            ResourcesError: One trial would take more.
        """
        if self.nodes_per_rung and self.nodes_per_rung[-1] > nodes_at_once:
            raise ResourcesError(
                f"resources.nodes_per_rung={list(self.nodes_per_rung)} asks for {self.nodes_per_rung[-1]} nodes at "
                f"once, and site {site.name!r} gives a study {nodes_at_once}: nodes_per_trial={site.nodes_per_trial} "
                f"times the trials at once. Take at most {nodes_at_once}, or raise max_concurrent_trials with --jobs."
            )

    def growth(self, pruner: AnyPruner, ranks_per_node: int) -> tuple[RankGrowth, ...]:
        """Where the ranks of a trial become more.

        Args:
            pruner: Resolved.
        """
        if not isinstance(pruner, AshaPruner) or not self.nodes_per_rung:
            return ()
        return tuple(RankGrowth(epoch, nodes * ranks_per_node) for epoch, nodes in self._nodes_from(pruner)[1:])

    def _nodes_from(self, pruner: AshaPruner) -> list[tuple[int, int]]:
        """Nodes by the epoch from which a trial has them; each is more than the one before."""
        steps = list(zip((0, *pruner.rungs_of(0)), self.nodes_per_rung, strict=False))
        return [steps[0], *(step for before, step in pairwise(steps) if step[1] > before[1])]
