"""What an update is said to cost: the shape of the model, in limits that can be checked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.forecast.performance_model import Placement, UpdateCosts, allreduce_s, update_factors, update_s

COSTS = UpdateCosts(fixed_s=0.01, per_sample_s=0.001, latency_s=0.002, transfer_s=0.5, network_latency_s=0.03)
PLACEMENTS = st.builds(
    lambda nodes, on_each, shared: Placement(nodes * on_each, nodes, shared),
    st.integers(1, 64),
    st.integers(1, 8),
    st.floats(1, 16),
)


def test_one_rank_reduces_nothing():
    assert update_s(COSTS, Placement(1), 8) == pytest.approx(0.01 + 8 * 0.001)


def test_ranks_of_one_node_exchange_messages_but_use_no_link():
    assert allreduce_s(COSTS, Placement(4)) == pytest.approx(2 * 2 * 0.002)


def test_between_nodes_a_link_carries_nearly_two_gradients():
    assert allreduce_s(COSTS, Placement(2, 2)) == pytest.approx(2 * 0.002 + 0.5 + 2 * 0.03)
    assert allreduce_s(COSTS, Placement(16, 4)) == pytest.approx(2 * 4 * 0.002 + 2 * 15 / 16 * 0.5 + 4 * 0.03)


def test_ranks_that_share_cores_compute_in_turns_and_the_network_does_not_wait_for_that():
    alone, shared = Placement(16, 16), Placement(16, 16, ranks_per_core=8)

    assert update_s(COSTS, shared, 8) - update_s(COSTS, alone, 8) == pytest.approx(7 * (0.018 + 8 * 0.002))


def test_an_input_path_that_is_too_slow_is_a_ceiling():
    slow = replace(COSTS, latency_s=0.0, transfer_s=0.0, input_samples_per_s=100.0)

    assert update_s(slow, Placement(4), 8) == pytest.approx(4 * 8 / 100)
    assert update_s(replace(slow, input_samples_per_s=1e9), Placement(4), 8) == pytest.approx(0.018)


@given(PLACEMENTS, st.integers(1, 4096), st.floats(1, 1e9))
def test_an_update_takes_the_sum_of_its_costs_and_never_less_than_its_input(placement, batch, rate):
    factors = update_factors(placement, batch)
    parts = (COSTS.fixed_s, COSTS.per_sample_s, COSTS.latency_s, COSTS.transfer_s, COSTS.network_latency_s)
    total_s = sum(factor * cost for factor, cost in zip(factors, parts, strict=True))

    assert update_s(COSTS, placement, batch) == pytest.approx(total_s)
    assert update_s(replace(COSTS, input_samples_per_s=rate), placement, batch) >= placement.ranks * batch / rate
    assert math.isfinite(total_s)


@pytest.mark.parametrize(("ranks", "nodes", "shared"), [(1, 2, 1.0), (4, 0, 1.0), (4, 2, 0.5)])
def test_ranks_that_cannot_be_placed_like_this_are_refused(ranks, nodes, shared):
    with pytest.raises(ValueError, match=r"at least one rank|use 1"):
        Placement(ranks, nodes, shared)
