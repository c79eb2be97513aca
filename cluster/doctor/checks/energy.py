"""What of a trial's energy is counted."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.facts import SiteFacts
from cluster.doctor.findings import Verdict, node_place, ok, warning
from cluster.profile import SiteProfile
from storage.protocol.energy import EnergyReading


def judge_counters(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    for node in facts.job.nodes if facts.job else ():
        if node.energy is not None:
            yield _judge_node(profile, node.energy, node_place(node.machine.host))


def _judge_node(profile: SiteProfile, reading: EnergyReading, where: str) -> Verdict:
    missing = "; ".join(f"{counter}: {why}" for counter, why in reading.missing.items())
    found = "; ".join(filter(None, ["+".join(reading.joules), missing and f"not measured: {missing}"]))
    if not reading.joules and profile.kg_co2e_per_kwh is not None:
        return warning(found, "no CO2e without a counter: docs/energy.md says what it takes", where)
    return ok(found, where)
