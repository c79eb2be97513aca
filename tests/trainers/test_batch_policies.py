from __future__ import annotations

import pytest

from trainers.batch_policies import constant, switch_at_epoch


def test_a_constant_batch_never_changes():
    policy = constant.build(global_batch_size=512)

    assert {policy.global_batch_size(epoch, []) for epoch in range(100)} == {512}


def test_the_papers_batch_is_small_for_20_epochs_and_large_from_epoch_20_on():
    policy = switch_at_epoch.build(small_global_batch_size=512, large_global_batch_size=16_384, switch_epoch=20)

    sizes = [policy.global_batch_size(epoch, []) for epoch in range(100)]

    assert sizes == [512] * 20 + [16_384] * 80


def test_a_switch_to_a_smaller_batch_is_refused_with_both_values():
    with pytest.raises(ValueError, match="small_global_batch_size=64 is above large_global_batch_size=8"):
        switch_at_epoch.build(small_global_batch_size=64, large_global_batch_size=8, switch_epoch=1)


def test_a_switch_before_the_first_epoch_is_refused():
    with pytest.raises(ValueError, match="switch_epoch=-1"):
        switch_at_epoch.build(small_global_batch_size=8, large_global_batch_size=64, switch_epoch=-1)
