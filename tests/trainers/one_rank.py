"""A rank that is alone: what checkpoints and demands need of a communicator, without MPI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class OneRank:
    rank: int = 0
    world_size: int = 1
    is_first: bool = True

    def max(self, value: int) -> int:
        return value

    def broadcast(self, value: Any) -> Any:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def run_on_all_ranks(self, act: Callable[[], Value]) -> Value:
        return act()
