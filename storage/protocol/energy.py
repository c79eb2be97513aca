"""Joules, by the counters that gave them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NVML = "nvml"
"""The power that NVIDIA's driver tells, of the GPUs that ranks take."""
RAPL = "rapl"
"""What processors count of themselves and of their memory: of a whole node, whoever uses it."""

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class EnergyReading:
    """What the counters of one node have counted since they were first read."""

    joules: dict[str, float] = field(default_factory=dict)
    """By counter: NVML, RAPL."""
    missing: dict[str, str] = field(default_factory=dict)
    """By counter that should be there and cannot be read: why."""

    def since(self, earlier: EnergyReading) -> dict[str, float]:
        """Joules between two readings, by counter."""
        return {name: self.joules[name] - earlier.joules[name] for name in self.joules if name in earlier.joules}


def sum_by_counter(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The joules of all parts: of nodes, of an epoch's attempts, of a trial's epochs.

    Without a counter that is missing in one of them: what that part took is not known.
    """
    first = parts[0] if parts else {}
    names = [name for name in first if all(name in part for part in parts)]
    return {name: math.fsum(part[name] for part in parts) for name in names}


def deciding_counter(gpus: Sequence[str]) -> str:
    """The one by which trials are compared, so that none looks thrifty for want of another counter.

    Args:
        gpus: Of each rank the GPU, empty where it has none.
    """
    return NVML if any(gpus) else RAPL


def missing_on(readings: Sequence[tuple[str, EnergyReading]]) -> str:
    """What cannot be read on which node, and why, in one line; empty if nothing is missing.

    Args:
        readings: Each with its host's name. Hosts are named where some of them lack what others have.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for host, reading in readings:
        for counter, why in reading.missing.items():
            found.setdefault((counter, why), []).append(host)
    return "; ".join(
        f"{counter}: {why}" + ("" if len(hosts) == len(readings) else f" (on {', '.join(hosts)})")
        for (counter, why), hosts in found.items()
    )
