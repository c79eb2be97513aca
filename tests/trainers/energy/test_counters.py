"""From what sensors show to joules."""

from __future__ import annotations

import pytest

from storage.protocol.energy import EnergyReading
from trainers.energy.counters import CounterError, EnergyCounter, PowerIntegral
from trainers.energy.sampler import Sampler


def counted(*values: tuple[int, float], largest: int = 999) -> float:
    counter = EnergyCounter(unit_j=0.5, largest=largest)
    for value, now_s in values:
        counter.add(value, now_s)
    return counter.joules


def test_what_a_counter_showed_first_is_not_counted():
    assert counted((700, 0.0)) == 0.0
    assert counted((700, 0.0), (710, 1.0), (730, 2.0)) == 15.0


def test_a_counter_that_began_anew_has_gone_on():
    assert counted((990, 0.0), (10, 1.0)) == 10.0
    assert counted((999, 0.0), (1, 1.0), (999, 2.0), (1, 3.0)) == 501.0


def test_a_value_that_cannot_be_read_for_a_moment_is_made_up_for_by_the_next_one():
    assert counted((700, 0.0), (0, 1.0), (710, 2.0)) == 5.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([(0, 0.0)], "shows 0, or cannot be read"),
        ([(700, 0.0), (0, 4.0), (0, 6.0)], "shows 0, or cannot be read"),
        ([(700, 0.0), (710, 61.0)], "nobody read the counter for 61 s, in which it may have begun anew"),
        ([(700, 0.0), (700, 6.0), (700, 12.0)], "has stood still at 700 for 12 s"),
    ],
)
def test_a_counter_that_says_nothing_is_lost_and_not_guessed(values, words):
    with pytest.raises(CounterError, match=words):
        counted(*values)


def test_power_is_integrated_over_the_time_between_its_values():
    power = PowerIntegral(unit_w=0.001)

    for milliwatts, now_s in [(100_000, 0.0), (300_000, 2.0), (300_000, 3.0)]:
        power.add(milliwatts, now_s)

    assert power.joules == pytest.approx(400.0 + 300.0)


class Shown:
    """A sensor that shows one value after another."""

    def __init__(self, *values: int) -> None:
        self._values = iter(values)

    def read(self) -> int:
        return next(self._values)


def test_a_counter_one_of_whose_sensors_is_lost_is_missing_from_then_on_and_the_others_go_on():
    clock = iter(range(100))
    sensors = {
        "rapl": [(Shown(10, 20, 30), EnergyCounter(1.0, 999)), (Shown(10, 20, 30), EnergyCounter(1.0, 999))],
        "nvml": [(Shown(0), PowerIntegral(0.001))],
    }
    sampler = Sampler(sensors, {}, lambda: float(next(clock)))

    sampler.sample()
    sampler.sample()

    assert sampler.sample() == EnergyReading({"rapl": 40.0}, {"nvml": "the counter shows 0, or cannot be read"})
