"""The sum over the nodes, and over the attempts of an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from storage.protocol.energy import EnergyReading
from tests.storage.protocol.example_records import REPORT
from trainers.checkpoint import Progress
from trainers.energy import meter as meters
from trainers.energy.meter import EnergyMeter
from trainers.train import energy_so_far


@dataclass
class Nodes:
    """What a rank sees of three others: two of other nodes, and one beside it that counts nothing."""

    others: list[EnergyReading]
    rank: int = 0
    is_first: bool = True
    is_first_on_node: bool = True

    def gather(self, own: tuple[str, EnergyReading]) -> list[tuple[str, EnergyReading] | None]:
        return [own, None, *((f"node{number}", reading) for number, reading in enumerate(self.others, start=2))]

    def broadcast(self, value: object) -> object:
        return value


def meter_of(monkeypatch, own: list[EnergyReading], others: list[EnergyReading]) -> EnergyMeter:
    readings = iter(own)
    monkeypatch.setattr(meters.NodeSampler, "read", lambda sampler: next(readings))
    monkeypatch.setattr(meters, "find_spec", lambda name: None)
    return EnergyMeter(Nodes(others), REPORT)


BOTH = EnergyReading({"rapl": 10.0, "nvml": 100.0})


def test_an_epoch_has_the_joules_of_all_nodes(monkeypatch):
    now = EnergyReading({"rapl": 11.0, "nvml": 105.0})
    meter = meter_of(monkeypatch, [BOTH, now], [EnergyReading({"rapl": 2.0, "nvml": 20.0})])

    meter.begin()

    assert meter.since_begun() == {"rapl": 3.0, "nvml": 25.0}


def test_a_counter_that_a_node_lacks_is_left_out_and_the_report_says_on_which(monkeypatch, capsys):
    lacks = EnergyReading({"nvml": 20.0}, {"rapl": "it is root's"})
    meter = meter_of(monkeypatch, [BOTH, BOTH, BOTH, BOTH], [BOTH, lacks])

    report = meter.complete(REPORT)
    meter.complete(REPORT)
    meter.begin()

    assert (report.energy_sources, report.energy_missing) == (["nvml"], "rapl: it is root's (on node3)")
    assert meter.since_begun() == {"nvml": 120.0}
    assert capsys.readouterr().out == "energy: nvml (rapl: it is root's (on node3))\n"


def test_an_epoch_that_was_paused_has_the_joules_of_both_parts_or_none(monkeypatch):
    def resumed(earlier: dict[str, float], wall_s: float) -> dict[str, float]:
        meter = meter_of(monkeypatch, [BOTH, EnergyReading({"rapl": 14.0, "nvml": 105.0})], [])
        meter.begin()
        return energy_so_far(Progress(energy_by_counter_j=earlier, wall_s=wall_s), meter)

    assert resumed({}, wall_s=0.0) == {"rapl": 4.0, "nvml": 5.0}
    assert resumed({"rapl": 1.0, "nvml": 2.0}, wall_s=3.0) == {"rapl": 5.0, "nvml": 7.0}
    assert resumed({"rapl": 1.0}, wall_s=3.0) == {"rapl": 5.0}
    # By a version, or on a node, that measured nothing.
    assert resumed({}, wall_s=3.0) == {}
