"""What the ranks are asked for from outside: to make room, or to give way to a newer attempt. Agreed by all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

from storage.protocol.records import Outcome
from storage.protocol.trial_dir import AttemptDir
from trainers.faults import SupersededError

if TYPE_CHECKING:
    from trainers.communicator import Communicator

# Each look lists a folder of the shared file system.
_FENCE_EVERY_S = 1.0


class Demand(IntEnum):
    """What is asked of the ranks; the larger one counts where they are asked for several."""

    NONE = 0
    PAUSE = 1
    GIVE_WAY = 2


class Demands:
    """One attempt's.

    Args:
        is_interrupted: Whether this rank has been asked to make room.
    """

    def __init__(self, attempt: AttemptDir, communicator: Communicator, is_interrupted: Callable[[], bool]) -> None:
        self._attempt, self._communicator, self._is_interrupted = attempt, communicator, is_interrupted
        self._fence_again_s = 0.0

    def agree(self) -> Demand:
        """What any rank is asked for, on all ranks. Called by all of them after each loader batch.

        Raises:
            SupersededError: A newer attempt exists; on all ranks.
        """
        demand = Demand(self._communicator.max(self._own()))
        if demand is Demand.GIVE_WAY:
            raise SupersededError(f"{self._attempt.path} is superseded by a newer attempt; its ranks end here.")
        return demand

    def agree_after_epoch(self) -> Outcome | None:
        """What is to happen after an epoch: None goes on. Rank 0 reads the disk, all ranks do the same thing.

        Raises:
            SupersededError: As `agree`.
        """
        # Before a checkpoint is written, whenever the last look was.
        self._fence_again_s = 0.0
        demand = self.agree()
        requested = self._attempt.requested_stop() if self._communicator.is_first else None
        return self._communicator.broadcast(requested) or (Outcome.PAUSED if demand is Demand.PAUSE else None)

    def _own(self) -> Demand:
        now = time.monotonic()
        if self._communicator.is_first and now >= self._fence_again_s:
            self._fence_again_s = now + _FENCE_EVERY_S
            if self._attempt.is_superseded():
                return Demand.GIVE_WAY
        return Demand.PAUSE if self._is_interrupted() else Demand.NONE
