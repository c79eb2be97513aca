"""Tables of what the trials have consumed, as far as it was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from storage.database.schema import TrialRecord
from storage.protocol.energy import JOULES_PER_KWH
from study.energy import kg_co2e, missing_in_words, sources_in_words
from study.reporting.load import Arm
from study.reporting.tables import Cell, Column, ReportTable


def energy(arms: Sequence[Arm]) -> ReportTable | None:
    """The energy of each study; None where nobody measured any."""
    if not any(measured(arm) for arm in arms):
        return None
    return ReportTable(
        "energy",
        "Energy",
        (
            Column("study", is_number=False),
            Column("trials measured", is_number=False),
            Column("by", is_number=False),
            Column("kWh"),
            Column("of it trained again (kWh)"),
            Column("kg CO2e"),
            Column("not measured", is_number=False),
        ),
        tuple(_study(arm) for arm in arms),
        "Of all epochs of all attempts, evaluation included, without starts, checkpoints and epochs that a loss cut "
        "short. RAPL counts whole nodes, NVML the GPUs of the ranks. CO2e by the sites' constants; without one, none.",
    )


def energy_by_phase(arms: Sequence[Arm]) -> ReportTable | None:
    """What an epoch of each phase of the training takes."""
    rows = [row for arm in arms for row in _phases(arm)]
    if not rows:
        return None
    return ReportTable(
        "energy-by-phase",
        "Energy by phase",
        (
            Column("study", is_number=False),
            Column("global batch size", 0),
            Column("by", is_number=False),
            Column("trials", 0),
            Column("kJ per epoch", 3),
            Column("kJ per trial", 3),
        ),
        tuple(rows),
        "Means over trials, of the epochs that led to their results.",
    )


def measured(arm: Arm) -> list[TrialRecord]:
    """The trials that are over and whose energy is known."""
    return [record for record in arm.records if record.energy_j is not None]


def total_kwh(arm: Arm) -> float | None:
    """Of the trials that were measured; None if none was."""
    joules = [record.energy_j or 0.0 for record in measured(arm)]
    return math.fsum(joules) / JOULES_PER_KWH if joules else None


def _study(arm: Arm) -> tuple[Cell, ...]:
    records = measured(arm)
    trained = sum(bool(record.curves) for record in arm.records)
    again_j = math.fsum(record.energy_repeated_j or 0.0 for record in records)
    return (
        arm.name,
        f"{len(records)} of {trained}",
        sources_in_words(records) if records else None,
        total_kwh(arm),
        again_j / JOULES_PER_KWH if records else None,
        kg_co2e(records),
        missing_in_words(arm.records),
    )


def _phases(arm: Arm) -> Iterator[tuple[Cell, ...]]:
    trials = [(trial.batch_sizes, trial.record) for trial in arm.trials if trial.record in measured(arm)]
    sources = sorted({record.energy_source for _, record in trials if record is not None})
    for source in sources:
        for size in arm.batch_sizes:
            of_phase = [
                (record.energy_j_by_batch_size[str(size)] / 1000, sizes.count(size))
                for sizes, record in trials
                if record is not None and record.energy_source == source and str(size) in record.energy_j_by_batch_size
            ]
            if of_phase:
                per_epoch = math.fsum(kj / max(1, epochs) for kj, epochs in of_phase) / len(of_phase)
                per_trial = math.fsum(kj for kj, _ in of_phase) / len(of_phase)
                yield (arm.name, size, source, len(of_phase), per_epoch, per_trial)
