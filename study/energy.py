"""What trials have consumed, in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from storage.database.schema import TrialRecord
from storage.protocol.energy import JOULES_PER_KWH, RAPL

# Less is said in kilojoules.
_SMALLEST_KWH = 0.1


def describe_energy(records: Sequence[TrialRecord]) -> str:
    """What a study has consumed, and which counters say so; that nothing was measured, and why.

    Empty where nothing was trained, and of a study that an older version has run.

    Args:
        records: Of all trials that are over.
    """
    trained = [record for record in records if record.curves or record.energy_j is not None]
    measured = [record for record in trained if record.energy_j is not None]
    why = missing_in_words(records)
    if not measured:
        return f"not measured: {why}" if why else ""
    total = energy_in_words(math.fsum(record.energy_j or 0.0 for record in measured))
    of_trials = "" if len(measured) == len(trained) else f" in {len(measured)} of {len(trained)} trials,"
    repeated_j = math.fsum(record.energy_repeated_j or 0.0 for record in measured)
    repeated = f", {energy_in_words(repeated_j)} of it for epochs that were trained again" if repeated_j else ""
    return (
        f"{total}{of_trials} by {sources_in_words(measured)}{repeated}{_co2e(measured)}"
        f"{f'; not measured: {why}' if why else ''}"
    )


def sources_in_words(measured: Sequence[TrialRecord]) -> str:
    """The counters. Of different ones, trials do not compare, so it says of how many each is."""
    sources = [record.energy_source for record in measured]
    named = dict.fromkeys(sources)
    counts = [f"{source} in {sources.count(source)}" for source in named]
    whole = " (rapl: of whole nodes)" if any(RAPL in source for source in named) else ""
    return f"{', '.join(counts if len(named) > 1 else named)}{whole}"


def missing_in_words(records: Sequence[TrialRecord]) -> str:
    """Which counters trials lacked, and why, by the last one that did."""
    return next((words for record in reversed(records) if (words := _missing_to(record))), "")


def _missing_to(record: TrialRecord) -> str:
    found = record.communicator
    is_lost = record.energy_j is None and bool(found.get("energy_sources"))
    return str(found.get("energy_missing") or ("some epochs of a trial; its log says why" if is_lost else ""))


def kg_co2e(measured: Sequence[TrialRecord]) -> float | None:
    """Of all trials that were measured; None where the site's constant is not known for one of them."""
    masses = [record.kg_co2e for record in measured]
    return None if None in masses or not masses else math.fsum(mass or 0.0 for mass in masses)


def energy_in_words(joules: float) -> str:
    kwh = joules / JOULES_PER_KWH
    return f"{kwh:.3g} kWh" if kwh >= _SMALLEST_KWH else f"{joules / 1000:.3g} kJ"


def _co2e(measured: Sequence[TrialRecord]) -> str:
    mass = kg_co2e(measured)
    return "" if mass is None else f", {mass:.3g} kg CO2e"
