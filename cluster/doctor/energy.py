"""Which counters of energy a node has, by the program that counts for its ranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

from cluster.doctor.facts import GpuFacts
from storage.protocol.codec import RecordError, from_json
from storage.protocol.energy import NVML, RAPL, EnergyReading

# It imports perun from a file system that nodes share. A wish, for which no check of a must may run out of time.
_ANSWERS_WITHIN_S = 20.0


def gather_energy(gpus: Sequence[GpuFacts], environment: Mapping[str, str]) -> EnergyReading:
    """
    Args:
        gpus: That ranks may take here.
        environment: The ranks'.
    """
    command = (sys.executable, "-m", "trainers.energy", *(gpu.uuid for gpu in gpus))
    try:
        ended = subprocess.run(
            command, env=environment, input="\n", capture_output=True, text=True, timeout=_ANSWERS_WITHIN_S
        )
        if ended.returncode == 0:
            return from_json(EnergyReading, ended.stdout)
        why = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired, RecordError) as error:
        why = str(error)
    return EnergyReading(missing=dict.fromkeys([RAPL, *([NVML] if gpus else [])], f"it cannot be asked: {why}"))
