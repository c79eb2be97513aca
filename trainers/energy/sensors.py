"""Which counters a node has: perun's sensors. The only importer of perun.

perun's own sampler is not used: it starts MPI to find out which ranks share a node, and keeps every value until the
program ends.

Source: Gutiérrez Hermosillo Muriedas et al. 2023, "perun: Benchmarking Energy Consumption of High-Performance Computing
Applications", Euro-Par 2023; its backends, version 1.0.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from storage.protocol.energy import NVML, RAPL
from trainers.energy.counters import Accumulator, CounterError, EnergyCounter, PowerIntegral

if TYPE_CHECKING:
    from perun.data_model.sensor import Sensor

POWERCAP = Path("/sys/class/powercap")


def open_sensors(
    gpus: Sequence[str], powercap: Path, trials_on_machine: int
) -> tuple[dict[str, list[Sensor]], dict[str, str]]:
    """The sensors by counter, and why a counter has none.

    Args:
        gpus: UUIDs of those that the ranks of this node take. Without any, NVML is not asked.
        powercap: Where the kernel shows RAPL.
        trials_on_machine: That run here at once.
    """
    # An error at each of its samples would fill the ranks' log.
    logging.getLogger("perun").setLevel(logging.CRITICAL + 1)
    wanted: dict[str, Callable[[], list[Sensor]]] = {RAPL: lambda: _of_processors(powercap, trials_on_machine)}
    if gpus:
        wanted[NVML] = lambda: _of_gpus(gpus)
    return open_each(wanted)


def open_each(
    wanted: Mapping[str, Callable[[], list[Sensor]]],
) -> tuple[dict[str, list[Sensor]], dict[str, str]]:
    """What can be opened of what is wanted, and why the rest cannot."""
    sensors, missing = {}, {}
    for counter, open_all in wanted.items():
        try:
            sensors[counter] = open_all()
        except CounterError as error:
            missing[counter] = str(error)
        except Exception as error:  # noqa: BLE001  perun passes on what its libraries raise, NVML's own errors too
            missing[counter] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return sensors, missing


def accumulator_of(sensor: Sensor) -> Accumulator:
    from perun.data_model.measurement_type import Unit

    meaning = sensor.dataType
    if meaning.unit is Unit.JOULE:
        return EnergyCounter(float(meaning.mag.value), int(meaning.max))
    return PowerIntegral(float(meaning.mag.value))


def _of_processors(powercap: Path, trials_on_machine: int) -> list[Sensor]:
    if trials_on_machine > 1:
        raise CounterError(
            f"it counts the whole machine, where {trials_on_machine} trials run at once; --jobs 1 has it count for one"
        )
    packages = [zone.parent for zone in powercap.glob("intel-rapl:*/name") if zone.read_text().startswith("package")]
    if not packages:
        raise CounterError(f"the kernel shows no processor in {powercap}, as in most virtual machines and containers")
    if closed := [zone for zone in packages if not os.access(zone / "energy_uj", os.R_OK)]:
        raise CounterError(f"{closed[0] / 'energy_uj'} cannot be read; on most systems only root may: docs/energy.md")
    from perun.backend import powercap_rapl
    from perun.data_model.sensor import DeviceType

    # It takes no folder, and containers see their host's counters somewhere else.
    powercap_rapl.RAPL_PATH = str(powercap)
    backend = powercap_rapl.PowercapRAPLBackend()
    sensors: list[Sensor] = backend.getSensors(set(backend.availableSensors()))
    if (found := sum(sensor.type is DeviceType.CPU for sensor in sensors)) != len(packages):
        # It passes over what it cannot open, or does not know.
        raise CounterError(f"{powercap} shows {len(packages)} processors, of which {found} can be read")
    return sensors


def _of_gpus(gpus: Sequence[str]) -> list[Sensor]:
    from perun.backend.nvml import NVMLBackend
    from perun.data_model.measurement_type import Unit

    backend = NVMLBackend()
    of_power = {name for name, (_, _, unit) in backend.availableSensors().items() if unit is Unit.WATT}
    by_uuid: dict[str, Sensor] = {sensor.metadata["uuid"]: sensor for sensor in backend.getSensors(of_power)}
    if unknown := [gpu for gpu in gpus if gpu not in by_uuid]:
        raise CounterError(f"NVML tells no power of {unknown[0]}, as of a part of a GPU that MIG has divided")
    return [by_uuid[gpu] for gpu in gpus]
