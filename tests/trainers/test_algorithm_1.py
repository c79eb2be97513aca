"""The training loop against Algorithm 1 as printed, and several ranks against one: see programs/algorithm_1.py."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tests.trainers.tiny_trial import DEADLINE_S, run_program

pytestmark = pytest.mark.timeout(3 * DEADLINE_S)

Arrays = dict[str, np.ndarray]

KINDS = ("weights", "optimizer", "statistics")


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("algorithm_1")


@pytest.fixture(scope="module")
def two_ranks(out_dir) -> list[Arrays]:
    return run(out_dir, ranks=2)


@pytest.fixture(scope="module")
def one_rank(out_dir) -> Arrays:
    return run(out_dir, ranks=1)[0]


def run(out_dir, ranks: int) -> list[Arrays]:
    program = run_program("algorithm_1", out_dir, ranks=ranks)
    assert program.returncode == 0, program.stderr
    return [dict(np.load(out_dir / f"{rank} of {ranks}.npz")) for rank in range(ranks)]


@pytest.mark.parametrize("epoch", [0, 1], ids=["before the switch", "after the switch"])
def test_an_epoch_is_bit_identical_to_algorithm_1_as_printed(two_ranks, epoch):
    for results in two_ranks:
        for kind in KINDS:
            assert_identical(select(results, f"ours/{epoch}/{kind}"), select(results, f"printed/{epoch}/{kind}"))


@pytest.mark.parametrize("epoch", [0, 1], ids=["before the switch", "after the switch"])
def test_the_ranks_have_the_same_weights_and_optimizer_state_after_an_epoch(two_ranks, epoch):
    for kind in ("weights", "optimizer"):
        assert_identical(*(select(results, f"ours/{epoch}/{kind}") for results in two_ranks))


def test_an_epoch_changes_every_weight(two_ranks):
    before, between, after = (select(two_ranks[0], f"ours/{when}/weights") for when in ("warm", 0, 1))

    # Otherwise the comparisons here would compare nothing.
    for name in before:
        assert (before[name] != between[name]).any(), name
        assert (between[name] != after[name]).any(), name


def test_compiling_before_epoch_0_leaves_everything_as_it_was(two_ranks):
    for results in two_ranks:
        for kind in KINDS:
            assert_identical(select(results, f"ours/warm/{kind}"), select(results, f"ours/before/{kind}"))


def test_the_moving_statistics_are_averaged_over_the_ranks(two_ranks):
    first, second = (select(results, "ours/1/statistics") for results in two_ranks)

    for results in two_ranks:
        averaged = select(results, "ours/averaged/statistics")
        assert averaged
        for name, value in averaged.items():
            assert (first[name] != second[name]).any(), name
            np.testing.assert_allclose(value, (first[name] + second[name]) / 2, rtol=1e-6, err_msg=name)


def test_several_ranks_make_the_updates_of_one_with_the_same_global_batch(one_rank, two_ranks):
    before = select(one_rank, "alike/before/weights")
    assert_identical(before, select(two_ranks[0], "alike/before/weights"))

    alone, together = (select(results, "alike/after/weights") for results in (one_rank, two_ranks[0]))

    for name, value in alone.items():
        moved = abs(value - before[name]).max()
        assert moved > 0, name
        np.testing.assert_allclose(together[name], value, rtol=0, atol=1e-4 * moved, err_msg=name)


def test_an_evaluation_by_several_ranks_is_that_by_one(one_rank, two_ranks):
    for results in two_ranks:
        np.testing.assert_array_equal(results["class_scores"], one_rank["class_scores"])
        np.testing.assert_array_equal(results["f1"], one_rank["f1"])
        assert results["val_loss"] == pytest.approx(one_rank["val_loss"], rel=1e-6)


def test_an_evaluation_is_that_of_scikit_learn_on_all_predictions_at_once(two_ranks):
    results = two_ranks[0]
    labels, logits = results["val_labels"], results["val_logits"].astype(np.float64)
    # What would agree with anything is no evidence.
    assert 0.2 < (logits > 0).mean() < 0.8

    f1 = [f1_score(labels, logits > 0, average=average, zero_division=0) for average in ("micro", "macro")]
    cross_entropy = np.logaddexp(0, logits) - labels * logits

    assert results["f1"] == pytest.approx(f1)
    assert results["val_loss"] == pytest.approx(cross_entropy.mean(), rel=1e-5)


def test_the_last_loader_batch_is_whole_updates_and_as_many_on_every_rank(two_ranks):
    # 53 samples each: six loader batches of eight in updates of four, and one update in the last; one sits out.
    for results in two_ranks:
        assert results["short/samples"] == 52
        assert results["short/updates"] == 6 * 2 + 1


def test_every_call_of_an_epoch_has_a_shape_that_the_warm_up_has_run(two_ranks):
    for results in two_ranks:
        warm, epochs = (set(map(tuple, results[f"shapes/{when}"].tolist())) for when in ("warm", "epochs"))
        assert epochs
        assert epochs <= warm


def test_ranks_are_asked_for_an_end_after_each_loader_batch_but_the_last(two_ranks):
    for results in two_ranks:
        assert results["short/asked_after"].tolist() == [1, 2, 3, 4, 5, 6]


def test_ranks_that_agree_on_an_end_train_no_further_loader_batch(two_ranks):
    for results in two_ranks:
        assert results["ended/asked_after"].tolist() == [1, 2]
        assert results["ended/loader_batches"] == 2


def test_an_epoch_reads_no_sample_on_two_ranks_and_none_that_would_not_fill_an_update(two_ranks):
    read = np.concatenate([results["short/read"] for results in two_ranks])

    assert len(set(read)) == len(read) == 104


def select(results: Arrays, prefix: str) -> Arrays:
    chosen = {name.removeprefix(prefix): value for name, value in results.items() if name.startswith(f"{prefix}/")}
    assert chosen, f"no {prefix} among {sorted(results)}"
    return chosen


def assert_identical(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name
