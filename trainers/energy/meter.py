"""The ranks' view of what they consume: one process a node counts, and the sum over the nodes is everybody's."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from storage.protocol.codec import RecordError, from_json
from storage.protocol.energy import NVML, RAPL, EnergyReading, deciding_counter, missing_on, sum_by_counter
from storage.protocol.records import CommunicatorReport
from trainers.faults import AllocationError

if TYPE_CHECKING:
    from trainers.communicator import Communicator

# perun is imported from a file system that all nodes share, while the ranks build their model.
_ANSWERS_WITHIN_S = 60.0
_AT_ONCE = 1 << 16


class EnergyMeter:
    """Counts what all nodes consume, by one process a node that its first rank starts.

    Args:
        report: Of the ranks: with the host and the GPU of each.
    """

    def __init__(self, communicator: Communicator, report: CommunicatorReport) -> None:
        self._communicator = communicator
        self._host = report.hosts[communicator.rank]
        self._sampler = NodeSampler(gpus_on(self._host, report)) if communicator.is_first_on_node else None
        self._begun = EnergyReading()
        self._said = ""

    def complete(self, report: CommunicatorReport) -> CommunicatorReport:
        """The report with what can be measured and what cannot; the same on all ranks. A collective."""
        readings = self._gather(self._read())
        return replace(report, energy_sources=[*self._sum(readings)], energy_missing=missing_on(readings))

    def begin(self) -> None:
        """An epoch, or the rest of one, begins. No collective."""
        self._begun = self._read()

    def since_begun(self) -> dict[str, float]:
        """Joules of all nodes since then, by counter; the same on all ranks. A collective.

        Without a counter that one of the nodes lacks.
        """
        now = self._read()
        return self._sum(self._gather(EnergyReading(now.since(self._begun), now.missing)))

    def _read(self) -> EnergyReading:
        return EnergyReading() if self._sampler is None else self._sampler.read()

    def _gather(self, own: EnergyReading) -> list[tuple[str, EnergyReading]]:
        """Of each node, with its host's name, on all ranks."""
        mine = None if self._sampler is None else (self._host, own)
        gathered = self._communicator.broadcast(self._communicator.gather(mine))
        return [each for each in gathered if each is not None]

    def _sum(self, readings: Sequence[tuple[str, EnergyReading]]) -> dict[str, float]:
        """Of all nodes; says what is measured and what is not, once and whenever that has changed."""
        joules = sum_by_counter([reading.joules for _, reading in readings])
        said, why = self._said, missing_on(readings)
        self._said = f"energy: {'+'.join(joules) or 'not measured'}{f' ({why})' if why else ''}"
        if self._communicator.is_first and self._said != said:
            print(self._said, flush=True)
        return joules


class NodeSampler:
    """The process that counts for a node. One that is not there, or does not answer, is a counter that is missing.

    Args:
        gpus: UUIDs of those that are counted.
    """

    def __init__(self, gpus: Sequence[str]) -> None:
        self._wanted = [RAPL, *([NVML] if gpus else [])]
        self._lost = "" if find_spec("perun") else "perun is not installed (docs/energy.md)"
        self._process: subprocess.Popen[bytes] | None = None
        if not self._lost:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainers.energy", *gpus],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A launcher's signals are for the ranks. It ends when its standard input does, whatever ends the rank.
                start_new_session=True,
            )

    def read(self) -> EnergyReading:
        """What has been counted so far."""
        if self._process is not None:
            try:
                return self._ask(self._process)
            except (OSError, EOFError, RecordError) as error:
                self.close(f"its sampler is lost: {error}")
        return EnergyReading(missing=dict.fromkeys(self._wanted, self._lost))

    def close(self, why: str = "its sampler has been closed") -> None:
        """Count no more."""
        process, self._process, self._lost = self._process, None, why
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, process: subprocess.Popen[bytes]) -> EnergyReading:
        if process.stdin is None or process.stdout is None:
            raise OSError("it has no pipes")
        process.stdin.write(b"\n")
        process.stdin.flush()
        answer, until_s = b"", time.monotonic() + _ANSWERS_WITHIN_S
        while not answer.endswith(b"\n"):
            if not select.select([process.stdout], [], [], max(0.0, until_s - time.monotonic()))[0]:
                raise TimeoutError(f"no answer within {_ANSWERS_WITHIN_S:g} s")
            more = os.read(process.stdout.fileno(), _AT_ONCE)
            if not more:
                raise EOFError(f"it ended with exit code {process.wait()}")
            answer += more
        return from_json(EnergyReading, answer.decode())


def gpus_on(host: str, report: CommunicatorReport) -> list[str]:
    """UUIDs of the GPUs that the ranks on a host take."""
    # Behind the model's name, which may have spaces.
    return [gpu.rpartition(" ")[2] for on, gpu in zip(report.hosts, report.gpus, strict=True) if on == host and gpu]


def require_energy(report: CommunicatorReport) -> None:
    """Refuse to train a trial whose energy is an objective where nobody would measure it.

    Args:
        report: A complete one.

    Raises:
        AllocationError: The GPUs, or without GPUs the processors, cannot be measured on all nodes.
    """
    needed = deciding_counter(report.gpus)
    if needed not in report.energy_sources:
        raise AllocationError(
            f"the study goes by energy_kwh, and {needed} does not measure it here: {report.energy_missing}; "
            "docs/energy.md says what it takes, or leave energy_kwh out."
        )
