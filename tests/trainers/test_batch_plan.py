from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.batch_plan import BatchPlan, BatchPlanError, evaluation_batch_size, plan_batch, plan_parts

ranks = st.integers(1, 64)
splits = st.integers(1, 64)
local_sizes = st.integers(1, 64)


def test_the_papers_trial_makes_32_updates_of_512_samples_and_then_one_of_16384():
    small, large = plan_batch(512, 16, 1024), plan_batch(16_384, 16, 1024)

    assert (small.split, small.local_batch_size) == (32, 32)
    assert (large.split, large.local_batch_size) == (1, 1024)


@given(local_sizes, ranks, splits)
def test_the_updates_of_a_loader_batch_hold_all_of_its_samples(local_batch_size, world_size, split):
    plan = plan_batch(local_batch_size * world_size, world_size, local_batch_size * split)

    assert plan.local_batch_size == local_batch_size
    assert plan.split * plan.local_batch_size == plan.loader_batch_size


@given(st.integers(-10, 300), st.integers(1, 9), st.integers(1, 120))
def test_a_size_that_cannot_be_planned_is_answered_with_the_nearest_ones_that_can(size, world_size, loader_batch_size):
    valid = [n for n in range(1, loader_batch_size * world_size + 1) if is_planned(n, world_size, loader_batch_size)]

    if size in valid:
        return
    with pytest.raises(BatchPlanError) as refusal:
        plan_batch(size, world_size, loader_batch_size)

    below, above = [n for n in valid if n < size], [n for n in valid if n > size]
    assert sizes_to_use(refusal.value) == below[-1:] + above[:1]


@given(local_sizes, ranks, st.integers(1, 63))
def test_a_loader_batch_that_is_too_small_is_answered_with_one_that_is_not(local_batch_size, world_size, missing):
    size = (local_batch_size + missing) * world_size

    with pytest.raises(BatchPlanError) as refusal:
        plan_batch(size, world_size, local_batch_size)

    advised = int(re.search(r"set loader_batch_size to (\d+)", str(refusal.value))[1])
    assert is_planned(size, world_size, advised)


@pytest.mark.parametrize(("world_size", "loader_batch_size"), [(0, 32), (2, 0), (-2, 32)])
def test_no_ranks_and_no_samples_are_refused(world_size, loader_batch_size):
    with pytest.raises(BatchPlanError, match=f"world_size={world_size}, loader_batch_size={loader_batch_size}"):
        plan_batch(32, world_size, loader_batch_size)


@given(local_sizes, splits, st.integers(0, 5000))
def test_updates_are_whole_and_leave_over_less_than_one(size, split, samples):
    plan = BatchPlan(loader_batch_size=size * split, split=split)

    assert 0 <= samples - plan.updates(samples) * size < size


@given(local_sizes, splits, st.integers(0, 5000))
def test_all_loader_batches_but_the_last_are_full_and_none_is_empty(size, split, samples):
    plan = BatchPlan(loader_batch_size=size * split, split=split)

    of_the_last = plan.updates(samples) - (plan.loader_batches(samples) - 1) * split

    assert of_the_last in range(1, split + 1) or plan.updates(samples) == plan.loader_batches(samples) == 0


def test_the_papers_epoch_has_526_updates_before_the_switch_and_16_after_it():
    samples = 269_695 // 16

    assert plan_batch(512, 16, 1024).updates(samples) == 526
    assert plan_batch(16_384, 16, 1024).updates(samples) == 16


@given(st.integers(0, 5000), st.integers(1, 1024))
def test_an_evaluation_has_as_few_batches_as_it_can_and_pads_less_than_one_sample_each(samples, loader_batch_size):
    size = evaluation_batch_size(samples, loader_batch_size)

    batches = -(-samples // size)
    assert 1 <= size <= loader_batch_size
    assert batches == -(-samples // loader_batch_size)
    assert batches * size - samples < max(batches, 1)


def is_planned(size: int, world_size: int, loader_batch_size: int) -> bool:
    try:
        plan_batch(size, world_size, loader_batch_size)
    except BatchPlanError:
        return False
    return True


def sizes_to_use(error: BatchPlanError) -> list[int]:
    """The global batch sizes that a message advises."""
    advice = re.search(r"use (?:global_batch_size=)?(\d+)(?: or (\d+))?\.$", str(error))
    assert advice is not None, str(error)
    return [int(size) for size in advice.groups() if size is not None]


@given(st.lists(local_sizes, min_size=1, max_size=3), st.integers(1, 70))
def test_parts_divide_every_batch_that_is_larger_or_a_number_that_does_is_named(sizes, steps):
    try:
        part_size = plan_parts(sizes, steps)
    except BatchPlanError as refusal:
        [advised] = re.findall(r"use (\d+)", str(refusal))
        # The nearest divisor of the largest batch may still not do for the others; what is named then does.
        try:
            part_size = plan_parts(sizes, int(advised))
        except BatchPlanError as second:
            part_size = plan_parts(sizes, int(re.findall(r"use (\d+)", str(second))[0]))
    assert max(sizes) % part_size == 0
    assert all(size % part_size == 0 for size in sizes if size > part_size)
