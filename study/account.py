"""What a study has cost: counted while it runs, stored every minute, and gone on with by the next driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.pool import Pool
from storage.database.schema import SpentRow
from storage.protocol.attempts import AttemptEnd
from storage.protocol.clock import Clock
from study.budget import Budget, Need, Spent
from study.ledger import Ledger

_STORE_EVERY_S = 60.0


class Account:
    """One study's.

    Node-seconds are those of allocations, idle ones included, where a batch system gives them; on this machine, where
    nothing else is held, those of attempts.

    Args:
        nodes: Of an attempt that an older version has stored, and not said.
    """

    def __init__(self, budget: Budget, nodes: int, ledger: Ledger, pool: Pool, clock: Clock) -> None:
        self._budget, self._nodes, self._ledger, self._pool, self._clock = budget, nodes, ledger, pool, clock
        self._begun_s = clock.monotonic()
        self._before: SpentRow | None = None
        self._ended_node_s: dict[int, float] = {}
        """Of the attempts of each trial that have ended."""
        self._running: dict[int, tuple[float, int]] = {}
        """When a trial's attempt was started, and its nodes."""
        self._stored_s = self._begun_s
        self._is_changed = False

    @property
    def budget(self) -> Budget:
        return self._budget

    def attempt_starts(self, number: int, nodes: int) -> None:
        self._running[number] = self._clock.monotonic(), nodes

    def note_attempts(self, number: int, ends: Sequence[AttemptEnd]) -> None:
        """What is known of the attempts of a trial none of which is under way."""
        self._stored()
        if self._running.pop(number, None) is not None:
            self._is_changed = True
        self._ended_node_s[number] = sum(end.wall_s * end.nodes for end in ends)

    def spent(self) -> Spent:
        """Up to now."""
        before, now_s = self._stored(), self._clock.monotonic()
        allocations = self._allocations()
        if allocations is None:
            running_node_s = sum(nodes * (now_s - started_s) for started_s, nodes in self._running.values())
            node_s = sum(self._ended_node_s.values()) + running_node_s
        else:
            node_s = sum(allocations.values())
        return Spent(node_s / 3600, before.wall_s + now_s - self._begun_s, self._clock.unix())

    def used_up(self) -> str:
        """The limit that has been reached, in words; empty if none has."""
        return self._budget.used_up(self.spent()) if self._budget.is_limited else ""

    def is_enough_for(self, need: Need, under_way: Sequence[Need]) -> bool:
        """Whether the rest brings one more trial to a result. See `Budget`."""
        return not self._budget.is_limited or self._budget.is_enough_for(need, under_way, self.spent())

    @property
    def is_limited(self) -> bool:
        """Whether anything but the number of trials ends the study."""
        return self._budget.is_limited

    def describe(self) -> str:
        return self._budget.describe(self.spent())

    def store(self, is_last: bool = False) -> None:
        """Once a minute, when an attempt has ended, and at the end."""
        now_s = self._clock.monotonic()
        if not is_last and not self._is_changed and now_s - self._stored_s < _STORE_EVERY_S:
            return
        spent = self.spent()
        self._ledger.record_spent(SpentRow(round(spent.wall_s, 3), dict(self._allocations() or {})))
        self._stored_s, self._is_changed = now_s, False

    def _allocations(self) -> Mapping[str, float] | None:
        """Node-seconds by the allocation's id, those of earlier drivers included; None on this machine."""
        own = self._pool.allocations()
        if own is None:
            return None
        # What an earlier driver left may have gone on after its last word.
        before = self._stored().allocations
        return {**before, **{job: max(node_s, before.get(job, 0.0)) for job, node_s in own.items()}}

    def _stored(self) -> SpentRow:
        if self._before is None:
            self._before = self._ledger.read_spent()
            rows = self._ledger.attempts()
            self._ended_node_s = {
                number: sum(row.wall_s * (row.nodes or self._nodes) for row in of_trial)
                for number, of_trial in rows.items()
            }
        return self._before
