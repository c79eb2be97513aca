"""Sums of joules say only what is known."""

from __future__ import annotations

import pytest

from storage.protocol.energy import EnergyReading, missing_on, sum_by_counter


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([{"rapl": 1.0, "nvml": 10.0}, {"rapl": 2.0, "nvml": 20.0}], {"rapl": 3.0, "nvml": 30.0}),
        ([{"rapl": 1.0, "nvml": 10.0}, {"nvml": 20.0}], {"nvml": 30.0}),
        ([{"rapl": 1.0}, {}], {}),
        ([], {}),
    ],
)
def test_a_counter_that_a_part_lacks_is_not_in_the_sum(parts, total):
    assert sum_by_counter(parts) == total


def test_a_counter_that_came_later_says_nothing_of_the_time_before():
    assert EnergyReading({"rapl": 5.0, "nvml": 7.0}).since(EnergyReading({"rapl": 2.0})) == {"rapl": 3.0}


def test_what_all_nodes_lack_is_said_once_and_what_some_lack_with_their_names():
    lacks = EnergyReading({}, {"rapl": "it is root's"})
    lacks_more = EnergyReading({}, {"rapl": "it is root's", "nvml": "no driver"})

    assert missing_on([("node1", lacks), ("node2", lacks)]) == "rapl: it is root's"
    assert missing_on([("node1", lacks), ("node2", lacks_more), ("node3", EnergyReading({"rapl": 1.0}))]) == (
        "rapl: it is root's (on node1, node2); nvml: no driver (on node2)"
    )
    assert missing_on([("node1", EnergyReading({"rapl": 1.0}))]) == ""
