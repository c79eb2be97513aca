from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import wait_until
from trainers.datasets import ArraySource
from trainers.loader import evaluation_order, read_batches, training_order

world_sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32)
epochs = st.integers(0, 1000)


@given(st.integers(9, 200), world_sizes, seeds, epochs)
def test_an_epoch_trains_on_no_sample_twice_and_leaves_out_fewer_than_there_are_ranks(samples, ranks, seed, epoch):
    orders = [training_order(samples, seed, epoch, rank, ranks) for rank in range(ranks)]

    seen = Counter(np.concatenate(orders).tolist())
    assert set(seen) <= set(range(samples))
    assert set(seen.values()) == {1}
    assert samples - len(seen) < ranks


@given(st.integers(9, 200), world_sizes, seeds, epochs)
def test_all_ranks_train_on_equally_many_samples(samples, ranks, seed, epoch):
    sizes = {len(training_order(samples, seed, epoch, rank, ranks)) for rank in range(ranks)}

    # A rank with one more would wait for ever for the others' part of its last update.
    assert sizes == {samples // ranks}


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), seeds, epochs)
def test_an_update_of_n_ranks_has_the_samples_of_one_rank_with_n_times_as_many(ranks, size, updates, seed, epoch):
    samples = ranks * size * updates
    alone = training_order(samples, seed, epoch, rank=0, world_size=1)

    together = [training_order(samples, seed, epoch, rank, ranks) for rank in range(ranks)]

    for start in range(0, size * updates, size):
        of_all_ranks = np.concatenate([order[start : start + size] for order in together])
        assert set(of_all_ranks) == set(alone[start * ranks : (start + size) * ranks])


@given(seeds, epochs)
def test_the_order_is_a_function_of_seed_and_epoch(seed, epoch):
    order = training_order(100, seed, epoch, rank=1, world_size=2)

    np.testing.assert_array_equal(order, training_order(100, seed, epoch, rank=1, world_size=2))
    assert (order != training_order(100, seed, epoch + 1, rank=1, world_size=2)).any()
    assert (order != training_order(100, seed + 1, epoch, rank=1, world_size=2)).any()


def test_another_epoch_leaves_out_another_sample():
    left_out = {
        epoch: set(range(5)) - {i for rank in (0, 1) for i in training_order(5, 0, epoch, rank, 2).tolist()}
        for epoch in range(40)
    }

    assert set.union(*left_out.values()) == set(range(5))


@given(st.integers(1, 200), world_sizes)
def test_the_evaluation_covers_every_sample_once_in_shards_that_differ_by_one_at_most(samples, ranks):
    orders = [evaluation_order(samples, rank, ranks).tolist() for rank in range(ranks)]

    assert sorted(i for order in orders for i in order) == list(range(samples))
    assert max(map(len, orders)) - min(map(len, orders)) <= 1


def test_batches_come_in_order_and_the_last_one_counts_fewer():
    order = np.array([3, 1, 4, 0, 5, 9, 2])

    batches = [
        (b.samples.numpy()[: b.sample_count], b.labels.numpy()[: b.sample_count])
        for b in read_batches(SOURCE, order, 3)
    ]

    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([samples for samples, _ in batches]), SOURCE.samples[order])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), SOURCE.labels[order])


@pytest.mark.parametrize("samples", [1, 2, 3, 7])
def test_all_batches_have_one_shape_and_no_labels_where_they_are_padded(samples):
    for batch in read_batches(SOURCE, np.arange(samples), batch_size=3):
        assert batch.samples.shape == (3, *SOURCE.sample_shape)
        assert batch.labels.shape == (3, 10)
        assert not batch.labels.numpy()[batch.sample_count :].any()


@pytest.mark.parametrize("taken", range(1, 5))
def test_a_batch_stays_as_it_is_until_the_next_one_is_asked_for(taken):
    source = WatchedSource()
    batches = read_batches(source, np.arange(10), batch_size=2)
    for _ in range(taken):
        samples = next(batches).samples
    expected = SOURCE.samples[2 * taken - 2 : 2 * taken]

    wait_until(lambda: source.reads == min(taken + 2, 5))

    np.testing.assert_array_equal(samples.numpy(), expected)


def test_batches_share_the_memory_of_three():
    batches = read_batches(SOURCE, np.arange(10), batch_size=1)

    addresses = [samples.__array__().__array_interface__["data"][0] for samples, _, _ in batches]

    assert len(set(addresses)) == 3
    assert addresses[3:] == addresses[:-3]
    assert all(address % 64 == 0 for address in addresses)


def test_stored_integers_are_handed_over_as_they_are():
    samples, labels, _ = next(read_batches(SOURCE, np.arange(2), batch_size=2))

    assert (samples.dtype, labels.dtype) == (np.uint16, np.uint8)


def test_batches_are_read_ahead_but_never_more_than_three_in_memory():
    source = WatchedSource()
    batches = read_batches(source, np.arange(10), batch_size=1)

    next(batches)

    wait_until(lambda: source.reads == 3)
    next(batches)
    wait_until(lambda: source.reads == 4)


def test_an_error_of_the_reader_reaches_the_training():
    batches = read_batches(WatchedSource(fails_at=4), np.arange(10), batch_size=1)

    read = [next(batches) for _ in range(4)]

    assert len(read) == 4
    with pytest.raises(OSError, match="stale file handle"):
        next(batches)


@pytest.mark.parametrize("taken", [0, 1, 10])
def test_no_thread_is_left_when_the_training_breaks_off(taken):
    batches = read_batches(WatchedSource(), np.arange(10), batch_size=1)
    for _ in range(taken):
        next(batches)

    batches.close()

    wait_until(lambda: not loader_threads())


def test_no_thread_is_left_when_the_reader_failed():
    with pytest.raises(OSError, match="stale file handle"):
        list(read_batches(WatchedSource(fails_at=2), np.arange(10), batch_size=1))

    wait_until(lambda: not loader_threads())


SOURCE = ArraySource(
    samples=np.arange(10 * 2 * 2 * 3, dtype=np.uint16).reshape(10, 2, 2, 3),
    labels=np.eye(10, dtype=np.uint8),
)


@dataclass
class WatchedSource:
    """Ten samples, and how often some of them were read."""

    fails_at: int | None = None
    reads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    sample_shape = SOURCE.sample_shape
    sample_dtype = SOURCE.sample_dtype

    def __len__(self) -> int:
        return len(SOURCE)

    def read(self, indices, out):
        with self.lock:
            if self.reads == self.fails_at:
                raise OSError("stale file handle")
            self.reads += 1
        return SOURCE.read(indices, out)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
